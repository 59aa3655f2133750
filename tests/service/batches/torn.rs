//! Files of a batch whose ends are torn, or that are damaged: the rest of them is kept, and no other batch is harmed.

use std::{
    fs::{self, OpenOptions},
    future::IntoFuture,
    io::Write,
    path::{Path, PathBuf},
};

use together_inference::{
    batch::{BatchId, LineErrorKind},
    service::{BatchOptions, Completion},
    testing::Fault,
};

use super::{Shop, check, line, lines, rows};
use crate::world::{ms, secs};

fn folder(shop: &Shop, id: BatchId) -> PathBuf {
    shop.folder.0.join("inference.db.batches").join(id.as_str())
}

fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// A worker ended while it wrote rows; each that follows finds files of an earlier one where it writes its own.
#[tokio::test(start_paused = true)]
async fn what_a_worker_left_half_written_harms_no_row_of_the_next_one() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default().singly_below(0), |builder| builder).await;
    shop.sim.on_batch_row("line 000007.").times(1).fails();
    shop.sim.batch_time(secs(900));
    let id = shop.submit(lines(60)).await.id();
    while shop.sim.batches().is_empty() {
        tokio::time::sleep(secs(5)).await;
    }
    shop.service.shutdown(secs(30)).await;
    let tails: [&[u8]; 4] =
        [b"{\"body\":{\"id\":\"torn", b"\xff\xfe\0", b"{\"error\":{}}\n{\"body\":", &[b'x'; 200_000]];
    for fence in 0..400 {
        let path = folder(&shop, id).join(format!("0-0-{fence}.out.jsonl"));
        append(&path, b"{\"error\":{\"kind\":\"invalid\",\"code\":\"\",\"message\":\"another's\"}}\n");
        append(&path, tails[fence % tails.len()]);
    }
    append(&folder(&shop, id).join("requests.jsonl"), b"{\"input\":{\"mess");
    append(&folder(&shop, id).join("1-0.7.part"), b"{\"custom_id\":\"");
    let costs = shop.costs.clone();
    let other = shop.another_with(BatchOptions::default().singly_below(0), |builder| builder.cost_sink(costs));
    let ticket = other.find_batch(id).await.unwrap();
    let report = ticket.clone().await.unwrap();
    check(&report);
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.jobs.iter().map(|job| job.lines).collect::<Vec<_>>(), [60, 1], "{report}");
    let rows = rows(&ticket).await;
    assert!(rows.iter().all(|row| row.result.as_ref().is_ok_and(|answer| !answer.text().is_empty())));
    // A flush has five seconds.
    shop.set_pace(ms(50));
    assert!(other.flush().await);
    shop.judge().await;
}

/// A process ended while a request came in: half of it is on the disk, or all of it and nobody was told so.
#[tokio::test(start_paused = true)]
async fn what_was_gathered_before_a_torn_request_is_answered_and_nothing_else() {
    let shop = Shop::new().await;
    shop.sim.fail_next(1_000, Fault::status(429).retry_after(secs(3_600)));
    let mut tickets = Vec::new();
    for number in 0..5 {
        let request = line(number).deferrable().deadline(secs(12 * 3_600));
        match shop.service.complete_or_defer(request).await.unwrap() {
            Completion::Deferred(deferred) => tickets.push(deferred.ticket),
            answered => panic!("{answered:?}"),
        }
    }
    let id: BatchId = tickets[0].split_once('/').unwrap().0.parse().unwrap();
    shop.service.shutdown(secs(30)).await;
    let path = folder(&shop, id).join("requests.jsonl");
    let whole = fs::read(&path).unwrap();
    let orphan = whole.split(|byte| *byte == b'\n').next().unwrap();
    append(&path, &[orphan, b"\n", &orphan[..orphan.len() / 2]].concat());
    let costs = shop.costs.clone();
    let other = shop.another_with(BatchOptions::default(), |builder| builder.cost_sink(costs));
    for ticket in &tickets {
        assert!(other.deferred(ticket).await.unwrap().await.unwrap().result.is_ok());
    }
    let jobs = shop.sim.batches();
    assert_eq!((jobs.len(), jobs[0].lines), (1, 5), "what nobody was promised is not sent");
    shop.set_pace(ms(50));
    assert!(other.flush().await);
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_the_disk_lost_is_told_as_such_and_the_others_are_read() {
    let shop = Shop::new().await;
    shop.sim.on_batch_row("line 000003.").refuses("Maximum four stop sequences allowed");
    let ticket = shop.submit(lines(40)).await;
    ticket.clone().await.unwrap();
    let files = fs::read_dir(folder(&shop, ticket.id())).unwrap().map(|entry| entry.unwrap().path());
    let path = files.into_iter().find(|path| path.to_string_lossy().ends_with(".out.jsonl")).unwrap();
    // The last row is torn, and one in the middle has become something else.
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] = b'\n';
    bytes.truncate(bytes.len() - 20);
    fs::write(&path, bytes).unwrap();
    let rows = rows(&ticket).await;
    assert_eq!(rows.len(), 40);
    let lost =
        rows.iter().filter(|row| row.result.as_ref().is_err_and(|error| error.kind == LineErrorKind::Unreadable));
    let read = rows.iter().filter(|row| row.result.is_ok()).count();
    assert!((1..=2).contains(&lost.count()) && read >= 37, "{read} are left");
    let report = ticket.await.unwrap();
    assert_eq!((report.failed.len(), report.failed[0].error.kind), (1, LineErrorKind::Invalid), "{report}");
    shop.judge().await;
}

/// Somebody deletes what a batch still needs.
#[tokio::test(start_paused = true)]
async fn a_batch_whose_files_are_gone_holds_up_no_other() {
    let shop = Shop::at_pace(secs(5), BatchOptions::default(), |builder| builder).await;
    shop.sim.stick_batches(0.6);
    let broken = shop.service.batch(lines(20)).deadline(secs(7_200)).submit().await.unwrap();
    while shop.sim.batches().is_empty() {
        tokio::time::sleep(secs(5)).await;
    }
    fs::remove_file(folder(&shop, broken.id()).join("requests.jsonl")).unwrap();
    tokio::time::sleep(secs(7_200)).await;
    shop.sim.heal();
    let other = shop.submit((20..30).map(line).collect()).await;
    let report = tokio::time::timeout(secs(7_200), other.into_future()).await;
    assert!(report.expect("it is held up by the other batch").unwrap().is_complete());
}
