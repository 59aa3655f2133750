//! What a program does to the disk, seen from outside, and a disk that does not keep what it is given.
//!
//! A library between the program and the C library tells of every write and flush. Children of the tests run with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The library, compiled once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/service/disk.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .args([source, "-ldl"])
            .output()
            .expect("a C compiler is needed: apt-get install gcc libc6-dev");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        library
    })
}

/// Has a child tell what it writes and flushes below this folder; its flushes fail as long as `fails_if` is there.
pub(crate) fn watch(child: &mut Command, folder: &Path, fails_if: Option<&Path>) {
    child.env("LD_PRELOAD", library()).env("DISK_FOLDER", folder);
    if let Some(path) = fails_if {
        child.env("DISK_FAILS_IF", path);
    }
}

/// What would be lost if the power went now.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Files with bytes that were not flushed.
    dirty: BTreeSet<String>,
    /// Folders with names that were not flushed.
    unnamed: BTreeSet<String>,
    /// How often each file was flushed.
    flushes: BTreeMap<String, usize>,
}

impl Disk {
    /// Takes in what a child said; `false` where it is about something else.
    pub(crate) fn hear(&mut self, line: &str) -> bool {
        let Some((what, path)) = line.strip_prefix("disk ").and_then(|said| said.split_once(' ')) else { return false };
        let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
        match what {
            "wrote" => drop(self.dirty.insert(path.to_owned())),
            "made" => drop(self.unnamed.insert(folder(path))),
            "flushed" => {
                self.dirty.remove(path);
                self.unnamed.remove(path);
                *self.flushes.entry(path.to_owned()).or_default() += 1;
            }
            "renamed" => {
                let (from, to) = path.split_once(' ').unwrap();
                if self.dirty.remove(from) {
                    self.dirty.insert(to.to_owned());
                }
                self.unnamed.insert(folder(to));
            }
            _ => {}
        }
        true
    }

    /// Files of this ending, and folders of such files, that are not safe.
    pub(crate) fn unsafe_of(&self, ending: &str) -> Vec<&str> {
        self.dirty.iter().filter(|path| path.ends_with(ending)).map(String::as_str).collect()
    }

    /// Folders whose names are not safe.
    pub(crate) fn unnamed(&self) -> Vec<&str> {
        self.unnamed.iter().map(String::as_str).collect()
    }

    /// How often files of this ending were flushed.
    pub(crate) fn flushes_of(&self, ending: &str) -> usize {
        self.flushes.iter().filter(|(path, _)| path.ends_with(ending)).map(|(_, count)| count).sum()
    }
}
