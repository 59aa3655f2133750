//! What a batch costs this process: a million lines planned, 118 MB of answers settled, both beside the least that it can
//! take: the same bytes written, and the same bytes parsed. The simulator runs in a process of its own, so that its
//! memory and CPU are not counted.

use std::{
    env,
    fs::{self, File},
    future::Future,
    hint::black_box,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use cpu_time::ProcessTime;
use futures_util::stream;
use serde::Deserialize;
use serde_json::value::RawValue;
use together_inference::{
    InferenceRequest, InferenceService, TogetherClient, cache::MemoryCache, pipeline::Pipeline, service::BatchOptions,
    store::Store, testing::Together,
};
use tokio::runtime::Runtime;

const MODEL: &str = "zai-org/GLM-5.3";
/// Set for the process that is the simulator.
const SIMULATOR: &str = "TOGETHER_BENCH_SIMULATOR";
const PLANNED: usize = 1_000_000;
const ANSWERED: usize = 50_000;
/// Bytes of an answer's text: 50,000 rows of them are 118 MB.
const TEXT: usize = 1_960;
/// Bytes of answers that the cache may hold.
const CACHED: u64 = 8 << 20;

/// The simulator, where this process is to be one.
pub fn serve_if_asked(runtime: &Runtime) -> bool {
    if env::var_os(SIMULATOR).is_none() {
        return false;
    }
    runtime.block_on(async {
        let together = Together::builder().time_scale(0.01).build();
        together.batch_time(Duration::from_secs(20));
        let text = "word ".repeat(TEXT / 5);
        together.on("").reply_with(move |_| text.clone());
        let served = together.serve().await.expect("a socket");
        println!("{}", served.base_url());
        std::future::pending::<()>().await;
    });
    true
}

struct Simulator(
    Child,
    String,
    #[expect(dead_code, reason = "closed, it would end the process")] BufReader<ChildStdout>,
);

impl Simulator {
    fn start() -> Self {
        let mut command = Command::new(env::current_exe().expect("a binary"));
        let mut child = command.env(SIMULATOR, "1").stdout(Stdio::piped()).spawn().expect("a process");
        let (mut url, mut said) = (String::new(), BufReader::new(child.stdout.take().expect("a pipe")));
        said.read_line(&mut url).expect("a URL");
        Self(child, url.trim().to_owned(), said)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = env::temp_dir().join(format!("together-inference-bench-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The most memory that this process has had since this was last asked, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let _ = fs::write("/proc/self/clear_refs", "5");
    kib.unwrap_or_default() / 1_024
}

/// Wall time, CPU of all threads, and what came of it.
fn timed<T>(runtime: &Runtime, work: impl Future<Output = T>) -> (f64, f64, T) {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    let value = runtime.block_on(work);
    (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64(), value)
}

fn row(name: &str, ratio: f64, text: &str, holds: bool) {
    let verdict = if holds { "" } else { "  MISSED" };
    println!("{name:<44} {ratio:>8.3}x {text}{verdict}");
}

fn line(number: usize) -> InferenceRequest {
    let text =
        format!("Label this ticket, number {number}: {}", "the parcel came late and the box was torn. ".repeat(8));
    InferenceRequest::chat(text).model(MODEL).temperature(0.0).max_tokens(1_000)
}

async fn service(folder: &Path, url: &str) -> InferenceService {
    let client = TogetherClient::builder().base_url(url).api_key("bench").build().expect("a client");
    let options = BatchOptions::default().poll(Duration::from_millis(500)).chunk_lines(ANSWERED as u64);
    InferenceService::builder(client)
        .store(&Store::open(folder.join("inference.db")).await.expect("a store"))
        // It is filled with the answers: what it holds is not the batch's.
        .cache(MemoryCache::new(CACHED))
        .batches_with(options)
        .background(Pipeline::new().poll_every(Duration::from_millis(20)))
        .build()
        .expect("a service")
}

/// A million lines are planned and written down; then a process that knows nothing of them starts to work.
pub fn planning(runtime: &Runtime) {
    let folder = Folder::new();
    let at = folder.0.clone();
    // Nobody answers there: planning sends nothing.
    let planner = runtime.block_on(service(&at, "http://127.0.0.1:9/v1"));
    let before = peak();
    let (wall, cpu, ()) = timed(runtime, async {
        let mut job = planner.batch_stream(stream::iter((0..PLANNED).map(line)));
        let plan = job.estimate().await.expect("a plan");
        assert_eq!(plan.sent(), PLANNED as u64, "{plan}");
        job.submit().await.expect("a ticket");
    });
    let most = peak();
    let by_hand = timed(runtime, async { write_by_hand(&at.join("by_hand.jsonl")) });
    let rate = PLANNED as f64 / cpu;
    row(
        "batch: plan and submit 1,000,000 lines, CPU",
        cpu / by_hand.1,
        &format!("{rate:.0} of 50000 lines/s of CPU, {wall:.1} s wall, +{} of 64 MiB", most.saturating_sub(before)),
        rate >= 50_000.0 && most.saturating_sub(before) <= 64,
    );
    runtime.block_on(planner.shutdown(Duration::ZERO));
    drop(planner);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    let (begun, heard) = (Instant::now(), std::thread::spawn(move || listener.accept().map(|_| Instant::now())));
    let resumed = runtime.block_on(async {
        let service = service(&at, &url).await;
        service.start();
        while !heard.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service
    });
    let first = heard.join().expect("no panic").expect("a connection").duration_since(begun).as_secs_f64();
    row("batch: from start to the first request", first, "of 1 s", first <= 1.0);
    runtime.block_on(resumed.shutdown(Duration::ZERO));
}

/// The same requests serialised, hashed and written to a file.
fn write_by_hand(path: &Path) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    for number in 0..PLANNED {
        let bytes = serde_json::to_vec(&line(number)).expect("a request");
        black_box(blake3::hash(&bytes));
        file.write_all(&bytes).and_then(|()| file.write_all(b"\n")).expect("room");
    }
    file.into_inner().expect("room").sync_all().expect("room");
}

/// 50,000 answers, 118 MB: uploaded, listed, downloaded, settled, recorded; then read in order.
pub fn settling(runtime: &Runtime) {
    let (folder, simulator) = (Folder::new(), Simulator::start());
    let service = runtime.block_on(service(&folder.0, &simulator.1));
    let ticket = runtime.block_on(service.batch((0..ANSWERED).map(line)).submit()).expect("a ticket");
    peak();
    let (wall, cpu, report) = timed(runtime, ticket.clone().into_future());
    let report = report.expect("a report");
    assert!(report.is_complete(), "{report}");
    let most = peak();
    let (_, read_cpu, bytes) = timed(runtime, async {
        let mut rows = ticket.results_in_order();
        let mut bytes = 0;
        while let Some(row) = rows.next().await.expect("a row") {
            bytes += row.result.expect("an answer").text().len();
        }
        bytes
    });
    let read_most = peak();
    let spool = biggest(&folder.0);
    let by_hand = timed(runtime, async { parse_by_hand(&spool) });
    row(
        "batch: 50,000 answers settled, CPU",
        cpu / by_hand.1,
        &format!(
            "{cpu:.2} of 5 s of CPU, {wall:.1} s wall with the job, {} MB of rows, at most {most} of 64 MiB, 8 of them cached answers",
            fs::metadata(&spool).map_or(0, |file| file.len()) / 1_000_000
        ),
        cpu <= 5.0 && most <= 64,
    );
    row(
        "batch: the same read in order, CPU",
        read_cpu / by_hand.1,
        &format!("{read_cpu:.2} s, {} MB of text, at most {read_most} MiB", bytes / 1_000_000),
        read_most <= most + 8,
    );
    runtime.block_on(service.shutdown(Duration::ZERO));
}

/// The file of the rows.
fn biggest(folder: &Path) -> PathBuf {
    let mut found = (0, PathBuf::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => folders.push(entry.path()),
                Ok(meta) if entry.file_name().to_string_lossy().ends_with(".out.jsonl") && meta.len() > found.0 => {
                    found = (meta.len(), entry.path());
                }
                _ => {}
            }
        }
    }
    found.1
}

/// Each row looked at once: where the provider's body begins and ends.
fn parse_by_hand(path: &Path) {
    #[derive(Deserialize)]
    struct Row<'a> {
        #[serde(borrow)]
        body: &'a RawValue,
    }
    let mut file = BufReader::new(File::open(path).expect("a file"));
    let mut line = String::new();
    while file.read_line(&mut line).expect("a line") > 0 {
        // An empty line ends what may have been torn.
        if line != "\n" {
            let row: Row<'_> = serde_json::from_str(&line).expect("a row");
            black_box(row.body.get().len());
        }
        line.clear();
    }
}
