//! The folder of batches: one folder a batch, readable by its owner alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::{BatchId, ChunkKey};

/// The file of a batch's requests.
pub(super) const REQUESTS: &str = "requests.jsonl";
/// The file of answers that a batch had when it was planned.
pub(super) const CACHED: &str = "cached.out.jsonl";

#[derive(Clone, Debug)]
pub(super) struct Spool {
    root: PathBuf,
}

impl Spool {
    pub(super) const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn folder(&self, batch: BatchId) -> PathBuf {
        self.root.join(batch.as_str())
    }

    pub(super) fn path(&self, batch: BatchId, file: &str) -> PathBuf {
        self.folder(batch).join(file)
    }

    pub(super) fn input(&self, key: &ChunkKey) -> PathBuf {
        self.path(key.batch, &format!("{}-{}.in.jsonl", key.round, key.no))
    }

    pub(super) fn make(&self, batch: BatchId) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true);
        if !self.root.is_dir() {
            builder.create(&self.root)?;
            let parent = self.root.parent().filter(|parent| !parent.as_os_str().is_empty());
            sync_folder(parent.unwrap_or_else(|| Path::new(".")))?;
        }
        builder.create(self.folder(batch))
    }

    /// Opens a file of a batch to write at its end, made if need be.
    pub(super) fn open_to_write(&self, batch: BatchId, file: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(self.path(batch, file))
    }

    pub(super) fn open_to_read(&self, batch: BatchId, file: &str) -> io::Result<File> {
        // What the table says is a name and no way out of the folder.
        if file.contains(['/', '\\']) || file.starts_with('.') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no file of a batch"));
        }
        File::open(self.path(batch, file))
    }

    /// Has the disk know the names of a batch's files, and of its folder.
    pub(super) fn sync_names(&self, batch: BatchId) -> io::Result<()> {
        sync_folder(&self.folder(batch))?;
        sync_folder(&self.root)
    }

    /// Deletes a batch's folder, if it is there.
    pub(super) fn discard(&self, batch: BatchId) -> io::Result<()> {
        there(fs::remove_dir_all(self.folder(batch)))
    }
}

/// What is gone already is gone.
pub(super) fn there(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Elsewhere names are kept by the system itself.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
