//! Random load on a provider that is overrun, down and back: what may wait is answered once, by one side, and in time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use together_inference::{
    InferenceRequest,
    batch::Overflowing,
    service::{BatchOptions, Completion},
    testing::{Fault, Together},
    types::{Rng, SeededRng},
};
use tokio::{task::JoinHandle, time::Instant};

use super::{MODEL, Pace, Shop, cases};
use crate::world::{ms, route, secs, spawn};

/// What becomes of the provider now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// More asks than it allows.
    Limit,
    /// That, outages, and hints up to six hours.
    All,
}

/// What a request came to.
#[derive(Debug)]
enum End {
    Answered { text: String, took: Duration },
    Deferred { text: String, took: Duration, why: Overflowing },
    Failed(#[expect(dead_code, reason = "shown where a case fails")] String),
}

#[derive(Debug)]
struct Asked {
    question: String,
    /// `None`: it may not wait.
    deadline: Option<Duration>,
    end: JoinHandle<End>,
}

/// What a seed came to.
#[derive(Debug, Default)]
struct Tally {
    /// Of those that may not wait.
    realtime: Vec<Duration>,
    at_once: usize,
    deferred: usize,
}

struct Dice(SeededRng);

impl Dice {
    fn below(&self, most: u64) -> u64 {
        self.0.next_u64() % most
    }

    fn trouble(&self, sim: &Together, which: Trouble) {
        let times = 1 + self.below(30) as u32;
        if which == Trouble::Limit {
            return sim.limit(MODEL, 1 + self.below(3) as u32);
        }
        match self.below(7) {
            0 => sim.fail_next_of(MODEL, times, Fault::status(429)),
            1 => sim.fail_next_of(MODEL, times, Fault::status(429).retry_after(secs(self.below(6 * 3_600)))),
            2 => sim.fail_next_of(MODEL, times, Fault::status(503)),
            3 => sim.fail_next_of(MODEL, times, Fault::status(503).retry_after(secs(self.below(600)))),
            4 => sim.overload(MODEL),
            5 => sim.limit(MODEL, 1 + self.below(5) as u32),
            _ => {
                sim.heal();
                sim.restore(MODEL);
            }
        }
    }

    /// A question of its own, and how long its answer may take; most of a few hours if it may wait.
    fn question(&self, seed: u64, number: u64) -> (String, Option<Duration>) {
        let may_wait = self.below(2) == 0;
        let kind = if may_wait { "later" } else { "now" };
        let deadline = may_wait.then(|| secs(2 * 3_600 + self.below(10 * 3_600)));
        (format!("{kind} {seed} {number}"), deadline)
    }
}

async fn ask(service: together_inference::InferenceService, request: InferenceRequest, defers: bool) -> End {
    let begun = Instant::now();
    let completion = if defers {
        service.complete_or_defer(request).await
    } else {
        service.complete(request).await.map(|reply| Completion::Answered(Box::new(reply)))
    };
    match completion {
        Ok(Completion::Answered(reply)) => End::Answered { text: reply.text().to_owned(), took: begun.elapsed() },
        Ok(Completion::Deferred(deferred)) => {
            let row = service.deferred(&deferred.ticket).await.unwrap().await.unwrap();
            match row.result {
                Ok(answer) => {
                    End::Deferred { text: answer.text().to_owned(), took: begun.elapsed(), why: deferred.why }
                }
                Err(error) => End::Failed(error.to_string()),
            }
        }
        Ok(_) => End::Failed("neither".to_owned()),
        Err(error) => End::Failed(error.to_string()),
    }
}

/// Minutes of requests and trouble, and then as long as it takes.
async fn seed(number: u64, trouble: Trouble, defers: bool) -> Tally {
    let dice = Dice(SeededRng::new(number));
    let sim = Together::builder().seed(number).build();
    sim.on("").reply_with(|request| {
        let messages = request["messages"].as_array().unwrap();
        format!("to {}", messages.last().unwrap()["content"].as_str().unwrap())
    });
    sim.latency(ms(300 + dice.below(1_500)));
    let percent = if dice.below(4) == 0 { 50 } else { 0 };
    sim.batch_discount(MODEL, percent);
    // Times are compared where there is a limit alone.
    let pace = match trouble {
        Trouble::Limit => Pace { busy: ms(100), idle: secs(5) },
        Trouble::All => Pace { busy: ms(500), idle: secs(10) },
    };
    let shop = Shop::on(sim, pace, BatchOptions::default(), |builder| {
        builder.batch_percent_off(&route(MODEL), percent).rng(std::sync::Arc::new(SeededRng::new(number)))
    });
    let shop = shop.await;
    let mut all = Vec::new();
    for number_of in 0..12 {
        if dice.below(4) == 0 {
            dice.trouble(&shop.sim, trouble);
        }
        for burst in 0..=dice.below(4) {
            let (question, deadline) = dice.question(number, number_of * 10 + burst);
            let request = InferenceRequest::chat(question.clone()).model(MODEL).max_tokens(30);
            let request = match deadline {
                Some(deadline) if defers => request.deferrable().deadline(deadline),
                _ => request.deadline(secs(60)),
            };
            let end = spawn(ask(shop.service.clone(), request, defers));
            all.push(Asked { question, deadline, end });
        }
        tokio::time::sleep(secs(dice.below(30))).await;
    }
    shop.sim.heal();
    shop.sim.restore(MODEL);
    shop.set_pace(Pace { idle: secs(60), ..pace });
    let mut tally = Tally::default();
    let (mut answers, mut late, mut has_failed) = (0, HashSet::new(), false);
    for Asked { question, deadline, end } in all {
        let end = end.await.unwrap();
        let case = format!("seed {number}, {question}, {deadline:?}: {end:?}");
        match end {
            End::Answered { text, took } => {
                assert_eq!(text, format!("to {question}"), "{case}");
                answers += 1;
                match deadline {
                    Some(_) => tally.at_once += 1,
                    None => tally.realtime.push(took),
                }
            }
            End::Deferred { text, took, why } => {
                assert_eq!(text, format!("to {question}"), "{case}");
                assert!(deadline.is_some_and(|deadline| took <= deadline), "{case}");
                assert!(percent > 0 || why != Overflowing::Cheaper, "{case}");
                answers += 1;
                tally.deferred += 1;
                late.insert(question);
            }
            // What may wait is answered in the end.
            End::Failed(_) => {
                assert!(deadline.is_none() || !defers, "{case}");
                has_failed = true;
            }
        }
    }
    // What is in batches is what was deferred, each once; nothing else was paid than what was answered.
    let mut in_batches = HashMap::new();
    for job in shop.sim.batches() {
        for line in String::from_utf8_lossy(&shop.sim.file(&job.input_file_id).unwrap()).lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let question = line["body"]["messages"][0]["content"].as_str().unwrap().to_owned();
            let known = in_batches.insert(question, line["custom_id"].clone());
            assert!(known.is_none(), "seed {number}: {line} is in two: {known:?}, {job:?}");
        }
    }
    let in_batches: HashSet<_> = in_batches.into_keys().collect();
    assert!(in_batches.is_subset(&late), "seed {number}: {in_batches:?} {late:?}");
    assert_eq!(shop.sim.bill().calls, answers, "seed {number}: an answer was paid that nobody has");
    shop.judge_where(has_failed).await;
    tally
}

/// The half, nine tenths and ninety-nine hundredths of times.
fn shares(mut times: Vec<Duration>) -> [f64; 3] {
    times.sort_unstable();
    [50, 90, 99].map(|percent| times[times.len() * percent / 100].as_secs_f64())
}

fn first() -> u64 {
    std::env::var("BATCH_TEST_FIRST").map_or(0, |first| first.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_may_wait_is_answered_once_in_time_and_by_one_side_whatever_the_provider_does() {
    let (mut deferred, mut at_once) = (0, 0);
    for number in first()..first() + cases(2) {
        let tally = seed(number, Trouble::All, true).await;
        deferred += tally.deferred;
        at_once += tally.at_once;
    }
    assert!(deferred > 0 && at_once > 0, "{deferred} {at_once}");
    println!("{deferred} deferred, {at_once} at once");
}

#[tokio::test(start_paused = true)]
async fn of_what_a_limit_keeps_out_nothing_is_lost_and_what_may_not_wait_does_not_wait_longer_for_it() {
    let (mut with, mut without, mut deferred, mut at_once) = (Vec::new(), Vec::new(), 0, 0);
    for number in first()..first() + cases(2) {
        let tally = seed(number ^ 0xB17, Trouble::Limit, true).await;
        deferred += tally.deferred;
        at_once += tally.at_once;
        with.extend(tally.realtime);
        // A limit that counts asks is no other where some of them are deferred, as a number of failures to come is.
        without.extend(seed(number ^ 0xB17, Trouble::Limit, false).await.realtime);
    }
    println!("{deferred} deferred, {at_once} at once, {} and {} in realtime", with.len(), without.len());
    assert!(at_once > 0);
    // Of a few dozen the last hundredth is the one that had the worst luck.
    let is_telling = with.len() >= 200;
    let (with, without) = (shares(with), shares(without));
    println!("what may not wait took {with:?} s, without deferral {without:?} s (50, 90 and 99 %)");
    assert!(!is_telling || with[2] <= without[2] * 1.02, "{with:?} {without:?}");
}
