//! Where the bytes of an upload come from.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use hmac_sha256::Hash;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::check::{BatchFileProblems, BatchLines};
use crate::client::{Error, ErrorKind};

/// How much is read at once.
const PIECE: usize = 256 << 10;

/// Bytes at hand, or a range of a file.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Bytes(Bytes),
    File {
        path: PathBuf,
        offset: u64,
        /// To the end of the file unless set.
        len: Option<u64>,
    },
}

/// What one reading of a source tells.
pub(super) struct Digest {
    pub(super) len: u64,
    /// SHA-256 in hexadecimal.
    pub(super) checksum: String,
    pub(super) problems: Option<BatchFileProblems>,
}

impl Source {
    /// How many bytes there are now, without reading them.
    pub(super) async fn len(&self) -> Result<u64, Error> {
        match self {
            Self::Bytes(bytes) => Ok(len_of(bytes.len())),
            Self::File { len: Some(len), .. } => Ok(*len),
            Self::File { path, offset, len: None } => {
                let found = tokio::fs::metadata(path).await;
                let whole = found.map_err(|error| Error::of_file("read", path, error))?.len();
                Ok(whole.saturating_sub(*offset))
            }
        }
    }

    /// A part of it.
    pub(super) fn part(&self, from: u64, len: u64) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let at = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Self::Bytes(bytes.slice(at(from)..at(from.saturating_add(len))))
            }
            Self::File { path, offset, .. } => {
                Self::File { path: path.clone(), offset: offset.saturating_add(from), len: Some(len) }
            }
        }
    }

    /// Reads all of it once, away from the workers of the runtime: the checksum, and a check of its lines if wanted.
    pub(super) async fn digest(&self, lines: Option<BatchLines>) -> Result<Digest, Error> {
        let source = self.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let (mut hash, mut len, mut lines) = (Hash::new(), 0, lines);
            source.scan(|piece| {
                hash.update(piece);
                len += len_of(piece.len());
                if let Some(lines) = &mut lines {
                    lines.push(piece);
                }
            })?;
            let problems = lines.and_then(|lines| lines.finish().err());
            let digit = |digit: u8| char::from_digit(u32::from(digit), 16).unwrap_or_default();
            let checksum = hash.finalize().into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect();
            Ok(Digest { len, checksum, problems })
        });
        reading.await.map_err(|_| Error::new(ErrorKind::LocalFile, "the reading of the file ended early"))?
    }

    fn scan(&self, mut each: impl FnMut(&[u8])) -> Result<(), Error> {
        match self {
            Self::Bytes(bytes) => bytes.chunks(PIECE).for_each(each),
            Self::File { path, offset, len } => {
                let mut read = || {
                    let mut file = File::open(path)?;
                    file.seek(SeekFrom::Start(*offset))?;
                    let (mut left, mut piece) = (len.unwrap_or(u64::MAX), vec![0; PIECE]);
                    while left > 0 {
                        let room = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                        let count = file.read(piece.get_mut(..room).unwrap_or_default())?;
                        if count == 0 {
                            return if len.is_some() { Err(short()) } else { Ok(()) };
                        }
                        each(piece.get(..count).unwrap_or_default());
                        left -= len_of(count);
                    }
                    Ok(())
                };
                read().map_err(|error| Error::of_file("read", path, error))?;
            }
        }
        Ok(())
    }

    /// Its first `len` bytes, piece by piece.
    pub(super) fn stream(&self, len: u64) -> BoxStream<'static, Result<Bytes, Error>> {
        match self {
            Self::Bytes(bytes) => {
                let pieces: Vec<_> =
                    (0..bytes.len()).step_by(PIECE).map(|at| bytes.slice(at..bytes.len().min(at + PIECE))).collect();
                stream::iter(pieces.into_iter().map(Ok)).boxed()
            }
            Self::File { path, offset, .. } => {
                let reader = Reader { path: path.clone(), offset: *offset, left: len, file: None };
                stream::try_unfold(reader, async |mut reader| {
                    let next = reader.next().await.map_err(|error| Error::of_file("read", &reader.path, error))?;
                    Ok(next.map(|piece| (piece, reader)))
                })
                .boxed()
            }
        }
    }
}

/// Reads a range of a file; opens it when the first piece is wanted.
struct Reader {
    path: PathBuf,
    offset: u64,
    left: u64,
    file: Option<tokio::fs::File>,
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let room = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        if room == 0 {
            return Ok(None);
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut file = tokio::fs::File::open(&self.path).await?;
                file.seek(SeekFrom::Start(self.offset)).await?;
                none.insert(file)
            }
        };
        let mut piece = BytesMut::with_capacity(room);
        while piece.len() < room {
            let within = len_of(room - piece.len());
            if (&mut *file).take(within).read_buf(&mut piece).await? == 0 {
                return Err(short());
            }
        }
        self.left -= len_of(piece.len());
        Ok(Some(piece.freeze()))
    }
}

pub(super) fn len_of(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends before the range that was asked for")
}
