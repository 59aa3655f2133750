//! The files of answers and failures: written beside their place, and put there when they are whole.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use together_inference::service::BatchTicket;

use crate::options::with_end;

/// Where failures go: `out.errors.jsonl` for `out.jsonl`.
pub(crate) fn errors_path(output: &Path) -> PathBuf {
    output.with_extension("errors.jsonl")
}

/// Writes the rows in the order of the lines, as they come.
pub(crate) async fn write(ticket: &BatchTicket, output: &Path) -> Result<(), Box<dyn Error>> {
    let mut rows = ticket.results_in_order();
    let mut answers = Part::create(output)?;
    let mut failures: Option<Part> = None;
    while let Some(row) = rows.next().await? {
        let part = match (&row.result, &mut failures) {
            (Ok(_), _) => &mut answers,
            (Err(_), Some(failures)) => failures,
            (Err(_), none) => none.insert(Part::create(&errors_path(output))?),
        };
        writeln!(part.file, "{}", row.to_json())?;
    }
    if failures.is_none() && errors_path(output).exists() {
        fs::remove_file(errors_path(output))?;
    }
    answers.finish()?;
    failures.map_or(Ok(()), Part::finish)
}

/// A file that is not whole yet.
struct Part {
    file: BufWriter<File>,
    part: PathBuf,
    path: PathBuf,
}

impl Part {
    fn create(path: &Path) -> Result<Self, Box<dyn Error>> {
        let part = with_end(path, ".part");
        let file = File::create(&part).map_err(|error| format!("{}: {error}", part.display()))?;
        Ok(Self { file: BufWriter::new(file), part, path: path.to_owned() })
    }

    fn finish(self) -> Result<(), Box<dyn Error>> {
        self.file.into_inner().map_err(|error| error.to_string())?.sync_all()?;
        fs::rename(&self.part, &self.path)?;
        Ok(())
    }
}
