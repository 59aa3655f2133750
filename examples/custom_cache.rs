//! A cache of one's own: a folder of files, shared by runs and processes.
//!
//! `cargo run --example custom_cache` runs on the simulator; set `TOGETHER_API_KEY` for the real API.
#![expect(clippy::print_stdout, reason = "the output is the example")]

mod common;

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use together_inference::{
    InferenceRequest, InferenceService, TogetherClient, async_trait,
    cache::{CacheEntry, CacheError, CacheLayer},
    inference::CacheKey,
    types::{Clock, SystemClock},
};
use tokio::{fs, time::Instant};

/// One file a key. Answers lie there as plain text: the folder should be readable by its owner alone.
#[derive(Debug)]
struct FolderCache {
    folder: PathBuf,
    writes: AtomicU64,
}

impl FolderCache {
    async fn open(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder).await?;
        Ok(Self { folder, writes: AtomicU64::new(0) })
    }

    fn path(&self, key: &CacheKey) -> PathBuf {
        // A key's text holds its kind and its tenant's hash, so that a tenant can be forgotten by pattern.
        self.folder.join(key.to_string().replace(':', "-"))
    }
}

#[async_trait]
impl CacheLayer for FolderCache {
    async fn get(&self, key: &CacheKey) -> Result<Option<CacheEntry>, CacheError> {
        let bytes = match fs::read(self.path(key)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CacheError::new(error)),
        };
        // The envelope knows its key, its age and its length: a foreign, stale or torn file is never an answer.
        let entry = CacheEntry::decode(key, &bytes, SystemClock.now())?;
        Ok(Some(entry).filter(|entry| entry.is_fresh(Instant::now())))
    }

    async fn set(&self, key: &CacheKey, entry: CacheEntry) -> Result<(), CacheError> {
        let bytes = entry.encode(key, SystemClock.now())?;
        let path = self.path(key);
        // Written beside and renamed, so that no reader sees half a file, whoever else writes the same key.
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let draft = path.with_extension(format!("{}.{number}", std::process::id()));
        fs::write(&draft, bytes).await.map_err(CacheError::new)?;
        fs::rename(&draft, &path).await.map_err(CacheError::new)
    }

    async fn remove(&self, key: &CacheKey) -> Result<(), CacheError> {
        match fs::remove_file(self.path(key)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CacheError::new(error)),
            _ => Ok(()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (client, simulator) = common::client()?;
    if let Some(together) = &simulator {
        together.on("capital").reply("Canberra.");
    }
    let folder = std::env::temp_dir().join(format!("together-inference-cache-{}", std::process::id()));

    // Two services that share nothing but the folder, as two runs of a program would.
    for run in ["first run", "second run"] {
        ask(run, client.clone(), FolderCache::open(&folder).await?).await?;
    }
    let mut files = fs::read_dir(&folder).await?;
    while let Some(file) = files.next_entry().await? {
        println!("on disk: {} bytes in {}", file.metadata().await?.len(), file.file_name().display());
    }
    if let Some(together) = simulator {
        println!("the simulator was called {} time(s)", together.calls());
    }
    fs::remove_dir_all(&folder).await?;
    Ok(())
}

async fn ask(run: &str, client: TogetherClient, cache: FolderCache) -> Result<(), Box<dyn Error>> {
    let service = InferenceService::builder(client).cache(cache).build()?;
    // Temperature 0 makes the answer cacheable; `allow_cached(true)` would do the same at any temperature.
    let request = InferenceRequest::chat("What is the capital of Australia?").temperature(0.0).max_tokens(300);
    let reply = service.complete(request).await?;
    println!("{run}: {reply} [{} {} {}, saved {}]", reply.model(), reply.cost(), reply.source(), reply.saved);
    // The cache is written after the answer is given: a program that ends at once must let it finish.
    service.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
