//! Files of requests and answers, for threads that may block: one row a line, found again by its place.

#[cfg(test)]
use std::io::{BufRead, BufReader};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

use super::{
    BatchId, ChunkKey, Journal, Place, Result, Span,
    spool::{CACHED, REQUESTS, Spool, sync_folder, there},
};
use crate::store::reach;

/// What is written at once.
const BUFFER: usize = 256 * 1024;
/// How far is looked back at once for the end of the last whole row.
const LOOK_BACK: u64 = 64 * 1024;

/// A file that rows are appended to.
#[derive(Debug)]
pub(super) struct Appended {
    file: BufWriter<File>,
    end: u64,
}

impl Appended {
    /// Goes on after the last whole row: a process may have ended within one.
    pub(super) fn open(spool: &Spool, batch: BatchId, name: &str) -> io::Result<Self> {
        let mut file = spool.open_to_write(batch, name)?;
        let end = end_of_rows(&mut file)?;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        Ok(Self { file: BufWriter::with_capacity(BUFFER, file), end })
    }

    pub(super) fn append(&mut self, row: &[u8]) -> io::Result<Span> {
        let len = u64::try_from(row.len()).unwrap_or_default();
        let span = Span { offset: self.end, len };
        self.file.write_all(row)?;
        self.file.write_all(b"\n")?;
        self.end += len + 1;
        Ok(span)
    }

    /// Has the disk take it.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }
}

/// Where the last row that was written whole ends.
fn end_of_rows(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(LOOK_BACK);
        file.seek(SeekFrom::Start(from))?;
        block.clear();
        file.take(end - from).read_to_end(&mut block)?;
        if let Some(at) = memchr::memrchr(b'\n', &block) {
            return Ok(from + u64::try_from(at).unwrap_or_default() + 1);
        }
        end = from;
    }
    Ok(0)
}

/// Where the rows of a chunk are written as they come.
#[derive(Debug)]
pub(crate) struct Output {
    rows: Appended,
    file: Box<str>,
    spool: Spool,
    batch: BatchId,
}

impl Output {
    /// The same if the disk takes so many bytes more, which it gets back at once: what is bought then can be written.
    pub(crate) fn with_room(mut self, bytes: usize) -> io::Result<Self> {
        self.rows.file.flush()?;
        let (file, end) = (self.rows.file.get_mut(), self.rows.end);
        let taken = file.write_all(&vec![0; bytes]).and_then(|()| file.sync_data());
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        taken.map(|()| self)
    }

    pub(crate) fn append(&mut self, row: &[u8]) -> io::Result<Place> {
        Ok(Place { file: self.file.clone(), span: self.rows.append(row)? })
    }

    /// Has the disk take all of it: before the journal says where it is.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        reach("batch: rows are about to be flushed");
        self.rows.sync()?;
        self.spool.sync_names(self.batch)?;
        reach("batch: rows are flushed");
        Ok(())
    }
}

/// The requests of a batch.
#[derive(Debug)]
pub(crate) struct RequestsFile(File);

impl RequestsFile {
    pub(crate) fn read(&self, span: Span) -> io::Result<Vec<u8>> {
        read_at(&self.0, span)
    }
}

/// The whole rows of a file, each with its place; what was cut off at the end is left out.
#[derive(Debug)]
#[cfg(test)]
pub(crate) struct Rows {
    file: BufReader<File>,
    at: u64,
}

#[cfg(test)]
impl Iterator for Rows {
    type Item = io::Result<(Span, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut row = Vec::new();
        match self.file.read_until(b'\n', &mut row) {
            Err(error) => return Some(Err(error)),
            Ok(_) if row.pop() != Some(b'\n') => return None,
            Ok(_) => {}
        }
        let span = Span { offset: self.at, len: u64::try_from(row.len()).unwrap_or_default() };
        self.at += span.len + 1;
        Some(Ok((span, row)))
    }
}

fn read_at(file: &File, span: Span) -> io::Result<Vec<u8>> {
    // Before so much memory is asked for.
    if span.offset.saturating_add(span.len) > file.metadata()?.len() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before this row does"));
    }
    let mut row = vec![0; usize::try_from(span.len).map_err(io::Error::other)?];
    read_exact_at(file, &mut row, span.offset)?;
    Ok(row)
}

#[cfg(unix)]
fn read_exact_at(file: &File, row: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, row, offset)
}

#[cfg(not(unix))]
fn read_exact_at(file: &File, row: &mut [u8], offset: u64) -> io::Result<()> {
    // Clones share one position.
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = super::locked(&ONE);
    let mut file = file.try_clone()?;
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(row)
}

impl Journal {
    /// The file that a chunk is uploaded from.
    pub(crate) fn input_path(&self, key: &ChunkKey) -> PathBuf {
        self.0.spool.input(key)
    }

    /// Writes that file, all of it or nothing. Blocks.
    pub(crate) fn write_input(
        &self,
        key: &ChunkKey,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let path = self.input_path(key);
        let part = self.part(key);
        let file = self.0.spool.open_to_write(key.batch, &part)?;
        file.set_len(0)?;
        let mut file = BufWriter::with_capacity(BUFFER, file);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        fs::rename(self.0.spool.path(key.batch, &part), &path)?;
        sync_folder(&self.0.spool.folder(key.batch))?;
        Ok(path)
    }

    /// An owner that was overtaken may still write: each has a file of its own until it is whole.
    fn part(&self, key: &ChunkKey) -> String {
        format!("{}-{}.{}.part", key.round, key.no, self.process())
    }

    /// Deletes what a chunk was uploaded from.
    pub(crate) async fn remove_inputs(&self, key: ChunkKey) -> Result<()> {
        let part = self.part(&key);
        self.with_files(move |spool| {
            there(fs::remove_file(spool.input(&key)))?;
            there(fs::remove_file(spool.path(key.batch, &part)))
        })
        .await
    }

    /// Where an owner of a chunk writes its rows. Blocks.
    pub(crate) fn output(&self, key: &ChunkKey, fence: i64) -> io::Result<Output> {
        self.open_output(key.batch, format!("{}-{}-{fence}.out.jsonl", key.round, key.no).into())
    }

    /// The same in another file, where one cannot be written any further. Blocks.
    pub(crate) fn output_anew(&self, key: &ChunkKey, fence: i64) -> io::Result<Output> {
        let mut number = 1;
        loop {
            let file = format!("{}-{}-{fence}-{number}.out.jsonl", key.round, key.no);
            if !self.0.spool.path(key.batch, &file).exists() {
                return self.open_output(key.batch, file.into());
            }
            number += 1;
        }
    }

    fn open_output(&self, batch: BatchId, file: Box<str>) -> io::Result<Output> {
        let spool = self.0.spool.clone();
        let rows = Appended::open(&spool, batch, &file)?;
        Ok(Output { rows, file, spool, batch })
    }

    /// Keeps an answer out of the cache that was found after planning.
    pub(crate) async fn keep_cached(&self, batch: BatchId, row: Vec<u8>) -> Result<Place> {
        let (journal, process) = (self.clone(), self.process());
        self.with_files(move |_| {
            // One that appends at a time: the name is this process's, and so is the lock.
            let _turn = super::locked(&journal.0.gathering);
            let mut output = journal.open_output(batch, format!("{process}-{CACHED}").into())?;
            let place = output.append(&row)?;
            output.sync()?;
            Ok(place)
        })
        .await
    }

    /// The requests of a batch. Blocks.
    pub(crate) fn requests(&self, batch: BatchId) -> io::Result<RequestsFile> {
        self.0.spool.open_to_read(batch, REQUESTS).map(RequestsFile)
    }

    /// One answer. Blocks.
    pub(crate) fn read_answer(&self, batch: BatchId, place: &Place) -> io::Result<Vec<u8>> {
        read_at(&self.0.spool.open_to_read(batch, &place.file)?, place.span)
    }

    /// All whole rows of one of a batch's files. Blocks.
    #[cfg(test)]
    pub(crate) fn rows(&self, batch: BatchId, file: &str) -> io::Result<Rows> {
        Ok(Rows { file: BufReader::new(self.0.spool.open_to_read(batch, file)?), at: 0 })
    }
}
