//! A million lines: how long they take, and how much memory.

use std::time::Instant;

use super::*;

const LINES: u64 = 1_000_000;
const CHUNK: u64 = 10_000;

/// The most memory that this process has had, in MiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1_024
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap().max(1)
}

async fn measure(home: &Home) {
    let journal = home.journal().await;
    let (begun, request) = (Instant::now(), vec![b'x'; 500]);
    let mut planning = journal.begin(id(1)).await.unwrap();
    for page in 0..LINES / 1_000 {
        let lines = (page * 1_000..(page + 1) * 1_000).map(|index| {
            let mut line = line(index, planning.add(&request).unwrap());
            line.chunk = Some(u32::try_from(index / CHUNK).unwrap());
            line.key = Some([7; 32]);
            line
        });
        let lines = lines.collect();
        planning.lines(lines).await.unwrap();
    }
    let chunks = (0..LINES / CHUNK).map(|no| chunk(u32::try_from(no).unwrap(), CHUNK));
    planning.finish(draft(1, LINES), chunks.collect()).await.unwrap();
    let took = begun.elapsed();
    println!("planned {LINES} lines in {took:?}: {} a second, peak {} MiB", LINES * 1_000 / millis(took), peak());
    drop(journal);

    let begun = Instant::now();
    let journal = home.journal().await;
    let claims = journal.claim(50, at(0)).await.unwrap();
    println!("opened and claimed {} chunks in {:?}", claims.len(), begun.elapsed());
    let begun = Instant::now();
    for claim in &claims[..5] {
        let lines = journal.lines_of(claim.chunk.key).await.unwrap();
        let outcomes = lines.iter().map(|line| done(line.index, line.index * 6)).collect();
        assert!(journal.settle(claim.chunk.key, claim.fence, settling(outcomes), at(1)).await.unwrap());
    }
    println!("settled 50,000 lines of 5 chunks in {:?}, peak {} MiB", begun.elapsed(), peak());
    let begun = Instant::now();
    let counts = journal.counts(id(1)).await.unwrap();
    println!("counted in {:?}", begun.elapsed());
    assert_eq!((counts.done, counts.waiting), (50_000, LINES - 50_000));
    let (begun, mut from) = (Instant::now(), 0);
    while from < 50_000 {
        from += u64::try_from(journal.lines(id(1), from, 1_000).await.unwrap().len()).unwrap();
    }
    println!("read 50,000 lines in order in {:?}, peak {} MiB", begun.elapsed(), peak());
}

#[tokio::test]
#[ignore = "takes a minute, and means something in release alone: --ignored --nocapture"]
async fn a_million_lines() {
    for home in Home::each().await {
        measure(&home).await;
    }
}
