//! The process ends at every place where it may, and another one goes on.

use std::{path::PathBuf, process::Command};

use super::*;

const FOLDER: &str = "TOGETHER_JOURNAL_FOLDER";
const LINES: u64 = 6;

/// Lives the whole life of a batch, from wherever it is.
async fn live(journal: &Journal, number: u128) -> BatchId {
    let named = Draft { name: Some("labels".into()), ..draft(number, LINES) };
    let copies = |line: &mut NewLine| {
        if line.index >= 4 {
            (line.chunk, line.duplicate_of) = (None, Some(line.index - 4));
        }
    };
    let batch = match planned(journal, named, copies).await {
        Planned::New => id(number),
        Planned::Same(other) => other,
        Planned::NameTaken(other) => panic!("{other} has other lines"),
    };
    journal.sweep().await.unwrap();
    loop {
        for claim in journal.claim(10, at(0)).await.unwrap() {
            go_on(journal, claim).await;
        }
        for (row, waiting) in journal.rounds_over().await.unwrap() {
            if waiting == 0 {
                assert!(journal.finish(row.id, at(9)).await.unwrap());
                continue;
            }
            let lines: Vec<(u64, u32)> =
                journal.waiting(row.id, 0, 100).await.unwrap().iter().map(|line| (line.index, 0)).collect();
            let round = NewChunk { way: Way::Realtime, ..chunk(0, 1) };
            assert!(journal.next_round(row.id, row.round, vec![round], &lines, at(0)).await.unwrap());
        }
        if journal.find(batch).await.unwrap().unwrap().state == BatchState::Finished {
            return batch;
        }
    }
}

async fn go_on(journal: &Journal, claim: Claim) {
    let (key, fence, mut state) = (claim.chunk.key, claim.fence, claim.chunk.state);
    for (from, to) in [
        (ChunkState::Planned, ChunkState::Submitting),
        (ChunkState::Submitting, ChunkState::Running),
        (ChunkState::Running, ChunkState::Ended),
    ] {
        if state == from {
            assert!(journal.step(key, fence, &[from], to, Change::default(), at(1)).await.unwrap());
            state = to;
        }
    }
    // The last line has no answer in the first round.
    let mut lines = journal.lines_of(key).await.unwrap();
    lines.retain(|line| line.index < 3 || key.round > 0);
    let mut output = journal.output(&key, fence).unwrap();
    let answer = |line: &LineRef| {
        let place = output.append(format!("answer {}", line.index).as_bytes()).unwrap();
        Outcome { answer: Some(place), ..done(line.index, 0) }
    };
    let outcomes: Vec<Outcome> = lines.iter().map(answer).collect();
    output.sync().unwrap();
    let mut settling = Settling { from: vec![ChunkState::Ended], ..settling(outcomes) };
    if claim.chunk.way == Way::Realtime {
        assert!(journal.settle_lines(key, fence, std::mem::take(&mut settling.outcomes)).await.unwrap());
    }
    assert!(journal.settle(key, fence, settling, at(2)).await.unwrap());
}

/// What the other process does.
#[tokio::test]
#[ignore = "run by the one below"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = Store::open(PathBuf::from(folder).join("inference.db")).await.unwrap();
    live(&Journal::new(&store, None).unwrap(), 1).await;
}

/// Runs it until it comes to a place; what it said.
fn run(home: &Home, kill_at: &str) -> (bool, String) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "batch::journal::tests::crashes::child", "--ignored", "--nocapture"]);
    let output = child.env(FOLDER, home.folder()).env("TOGETHER_INFERENCE_KILL_AT", kill_at).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The places, in the order in which they were come to.
fn places() -> Vec<String> {
    let home = Home::file();
    let (lived, said) = run(&home, "list");
    assert!(lived, "{said}");
    said.lines().filter_map(|line| line.strip_prefix("kill point ")).map(str::to_owned).collect()
}

#[test]
fn the_disk_has_what_the_journal_says_before_it_says_it() {
    let places = places();
    let mut rest = places.iter();
    for place in [
        "batch: requests are flushed",
        "batch: a plan is about to stand",
        "batch: a plan stands",
        "batch: rows are flushed",
        "batch: a chunk is about to be settled",
        "batch: a chunk is settled",
        "batch: a round has begun",
        "batch: rows are flushed",
        "batch: lines are about to be settled",
        "batch: a batch has ended",
    ] {
        assert!(rest.any(|found| found == place), "{place} is missing or too early in {places:#?}");
    }
}

#[tokio::test]
async fn wherever_a_process_ends_another_goes_on_and_nothing_is_done_twice() {
    let all = places();
    let mut seen: HashMap<&str, u32> = HashMap::new();
    let mut killed = 0;
    for place in &all {
        let times = seen.entry(place).or_default();
        *times += 1;
        if !place.starts_with("batch: ") {
            continue;
        }
        let (home, at_place) = (Home::file(), format!("{place}:{times}"));
        let (lived, said) = run(&home, &at_place);
        assert!(!lived, "{at_place} was not come to: {said}");
        killed += 1;
        let journal = home.journal().await;
        let batch = live(&journal, 2).await;
        journal.sweep().await.unwrap();
        let counts = journal.counts(batch).await.unwrap();
        assert_eq!((counts.done, counts.duplicates, counts.cost, counts.waiting), (6, 2, 40, 0), "{at_place}");
        let arrived = journal.arrived(batch, 0, 10).await.unwrap();
        assert_eq!(arrived.len(), 6, "{at_place}");
        assert!(arrived.iter().zip(1..).all(|(line, place)| line.arrived == Some(place)), "{at_place}");
        for line in arrived {
            let answer = journal.read_answer(batch, &line.answer.unwrap()).unwrap();
            let asked = line.duplicate_of.unwrap_or(line.index);
            assert_eq!(String::from_utf8(answer).unwrap(), format!("answer {asked}"), "{at_place}");
        }
        let steps = journal.transitions(batch).await.unwrap();
        let steps: Vec<_> = steps.iter().map(|step| step.rsplit_once(' ').unwrap().0).collect();
        let (first, second): (Vec<&str>, Vec<&str>) = steps.iter().partition(|step| step.starts_with("0-0"));
        for (steps, round) in [(first, 0), (second, 1)] {
            let once = [" planned", "planned submitting", "submitting running", "running ended", "ended settled"];
            assert_eq!(steps, once.map(|step| format!("{round}-0 {step}")), "{at_place}");
        }
        let other = if batch == id(1) { id(2) } else { id(1) };
        assert_eq!(journal.rows_in("line", "batch", other).await, 0, "{at_place}");
        assert_eq!(std::fs::read_dir(home.spool()).unwrap().count(), 1, "{at_place}");
    }
    assert!(killed >= 24, "{killed} places");
    println!("killed at {killed} places");
}
