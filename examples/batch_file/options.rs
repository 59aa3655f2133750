//! What the command line says.

use std::{path::PathBuf, time::Duration};

use together_inference::{Task, Usd, parse_usd};

pub(crate) const USAGE: &str = "\
usage: batch_file IN.jsonl OUT.jsonl [options]
  --model MODEL             the model of every line, whatever the lines say
  --task chat|code          what the lines are, where the router chooses the model
  --max-cost USD            refuse, with exit code 3, what may cost more
  --deadline 90m|6h|1d      answer one by one what no job has brought in time
  --store FILE              where the batch is kept (OUT.jsonl.db)
  --realtime-price-compare  say what the same would cost in realtime";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) input: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) model: Option<String>,
    pub(crate) task: Option<Task>,
    pub(crate) max_cost: Option<Usd>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) compare: bool,
    store: Option<PathBuf>,
    said: Vec<String>,
}

impl Options {
    pub(crate) fn read(said: impl Iterator<Item = String>) -> Result<Self, String> {
        let said: Vec<String> = said.collect();
        let (mut files, mut words) = (Vec::new(), said.iter());
        let mut options = Self {
            input: PathBuf::new(),
            output: PathBuf::new(),
            model: None,
            task: None,
            max_cost: None,
            deadline: None,
            compare: false,
            store: None,
            said: said.clone(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--model" => options.model = Some(value()?.clone()),
                "--task" => options.task = Some(task(value()?)?),
                "--max-cost" => {
                    let said = value()?;
                    options.max_cost = Some(parse_usd(said).map_err(|error| format!("--max-cost {said}: {error}"))?);
                }
                "--deadline" => options.deadline = Some(time(value()?)?),
                "--store" => options.store = Some(value()?.into()),
                "--realtime-price-compare" => options.compare = true,
                other if other.starts_with("--") => return Err(format!("{other} is not known")),
                file => files.push(PathBuf::from(file)),
            }
        }
        let [input, output] = files.try_into().map_err(|_| "two files are needed: IN.jsonl OUT.jsonl".to_owned())?;
        Ok(Self { input, output, ..options })
    }

    /// Where the batch is kept.
    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| with_end(&self.output, ".db"))
    }

    /// What the batch is found again by: where its answers go.
    pub(crate) fn name(&self) -> String {
        let path = std::path::absolute(&self.output).unwrap_or_else(|_| self.output.clone());
        path.to_string_lossy().into_owned()
    }

    /// The command that leads back here.
    pub(crate) fn command(&self) -> String {
        format!("cargo run --features batch --example batch_file -- {}", self.said.join(" "))
    }
}

/// A path with something more at its end.
pub(crate) fn with_end(path: &std::path::Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn task(word: &str) -> Result<Task, String> {
    match word {
        "chat" => Ok(Task::Chat),
        "code" => Ok(Task::Code),
        other => Err(format!("--task {other}: chat or code")),
    }
}

fn time(word: &str) -> Result<Duration, String> {
    let problem = || format!("--deadline {word}: a number and m, h or d, such as 6h");
    let (number, unit) = word.split_at_checked(word.len().saturating_sub(1)).ok_or_else(problem)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(problem()),
    };
    let number: u64 = number.parse().map_err(|_| problem())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}
