//! The command line.

use std::{
    io::{self, IsTerminal, Read},
    str::FromStr,
    time::Duration,
};

use together_inference::{InferenceRequest, Task};

pub(crate) const HELP: &str = "\
usage: ask [OPTIONS] [PROMPT]...

Prints the answer on stdout, and what it cost on stderr. Without a PROMPT it reads stdin.

  --model ID          this model and no other; else the router chooses
  --task TASK         chat (the default) or code
  --priority LEVEL    realtime, standard (the default) or batch
  --system TEXT       instructions to the model
  --temperature T     randomness, 0 to 2
  --max-tokens N      the most tokens of the answer
  --deadline SECONDS  how long to wait
  --tenant NAME       whose request it is
  --stream            print the answer as it arrives
  --json              print one JSON object instead of text
  --base-url URL      another server; it gets TOGETHER_API_KEY, if that is set
  --help              this text

TOGETHER_API_KEY and TOGETHER_BASE_URL are used where they are set; without both, a simulator answers.

exit codes: 0 answered, 2 usage, 3 the request was refused (not valid, no model can serve it, over budget),
4 the provider failed or cannot be used, 5 the deadline passed";

/// What is asked, and how to print the answer.
pub(crate) struct Options {
    pub(crate) request: InferenceRequest,
    pub(crate) base_url: Option<String>,
    pub(crate) stream: bool,
    pub(crate) json: bool,
}

/// Reads the arguments; `None` asks for help.
pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut request, mut words) = (InferenceRequest::new(Task::Chat), Vec::new());
    let (mut base_url, mut stream, mut json) = (None, false, false);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--model" => request = request.model(value()?),
            "--task" => request = request.task(read(&arg, &value()?)?),
            "--priority" => request = request.priority(read(&arg, &value()?)?),
            "--system" => request = request.system(value()?),
            "--temperature" => request = request.temperature(read(&arg, &value()?)?),
            "--max-tokens" => request = request.max_tokens(read(&arg, &value()?)?),
            "--deadline" => request = request.deadline(Duration::from_secs(read(&arg, &value()?)?)),
            "--tenant" => request = request.tenant(value()?),
            "--base-url" => base_url = Some(value()?),
            "--stream" => stream = true,
            "--json" => json = true,
            "--help" | "-h" => return Ok(None),
            "--" => words.extend(args.by_ref()),
            flag if flag.starts_with("--") => return Err(format!("unknown option {flag}")),
            _ => words.push(arg),
        }
    }
    let prompt = if words.is_empty() { from_stdin()? } else { words.join(" ") };
    if prompt.trim().is_empty() {
        return Err("there is no prompt: give one as argument or on stdin".to_owned());
    }
    Ok(Some(Options { request: request.user(prompt), base_url, stream, json }))
}

fn read<T: FromStr<Err: ToString>>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| format!("{flag} {value}: {}", error.to_string()))
}

fn from_stdin() -> Result<String, String> {
    let (mut prompt, mut stdin) = (String::new(), io::stdin());
    if !stdin.is_terminal() {
        stdin.read_to_string(&mut prompt).map_err(|error| format!("stdin: {error}"))?;
    }
    Ok(prompt)
}
