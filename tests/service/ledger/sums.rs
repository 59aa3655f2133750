//! Records, sums, reports and files say the same to the nano-dollar.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use together_inference::{
    Cost, Price, Priority, RouteId, Task, Usage, Usd,
    client::ErrorKind,
    cost::{Basis, By, CostRecord, CostSink, Ending, Format, Ledger, ReportQuery, Sums},
    types::{Rate, RequestId, Rng, SeededRng},
};

use super::{Home, always, audit, secs, sums};

/// 2026-10-24 00:00 UTC: the day before Europe's clocks go back.
const OCTOBER: Duration = Duration::from_secs(1_792_800_000);

/// 2026-03-28 00:00 UTC: the day before they go forward.
const MARCH: Duration = Duration::from_secs(1_774_656_000);

pub(super) fn record(number: u128) -> CostRecord {
    let call = RequestId::new(number);
    let mut record = CostRecord::new(
        call.attempt(0),
        call,
        RouteId::new("together", "zai-org/GLM-5.3"),
        SystemTime::UNIX_EPOCH + OCTOBER,
    );
    record.ending = Ending::Answered;
    record.cost = Cost::Known(Usd::from_nanos(1_000_001));
    record
}

fn pick<T: Copy>(rng: &SeededRng, from: &[T]) -> T {
    from[(rng.next_u128() % from.len() as u128) as usize]
}

/// A record of anything, within four days.
pub(super) fn random(rng: &SeededRng, number: u128) -> CostRecord {
    let mut record = record(number);
    let nanos = Usd::from_nanos((rng.next_u128() % 3_000_000_000) as i64);
    record.at += Duration::from_micros((rng.next_u128() % (4 * 86_400_000_000)) as u64);
    record.route = RouteId::new(pick(rng, &["together", "local"]), pick(rng, &["a/x", "b/y", "c/z"]));
    record.served = pick(rng, &[None, Some("a/x")]).map(Into::into);
    record.tenant = pick(rng, &[None, Some("acme"), Some("bcme")]).map(Into::into);
    record.session = pick(rng, &[None, Some("s")]).map(Into::into);
    record.tags = vec![("team".into(), pick(rng, &["red", "blue"]).into())];
    record.task = pick(rng, &[Task::Chat, Task::Embedding]);
    record.priority = pick(rng, &[Priority::Realtime, Priority::Batch]);
    record.usage = Usage { prompt: (rng.next_u128() % 9_000) as u64, completion: 7, ..Usage::default() };
    record.cost =
        pick(rng, &[Cost::Known(nanos), Cost::Known(nanos), Cost::Unknown { at_most: nanos }, Cost::Unpriced]);
    record.ending = pick(
        rng,
        &[Ending::Answered, Ending::Failed(ErrorKind::Timeout), Ending::Cancelled, Ending::Hit, Ending::Follower],
    );
    if !record.ending.is_attempt() {
        (record.cost, record.saved) = (Cost::Known(Usd::ZERO), Cost::Known(nanos));
    }
    record
}

/// What is written is kept for the test.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// The nano-dollars of `0.000213000`.
fn nanos(text: &str) -> i64 {
    text.split_once('.')
        .map_or(0, |(dollars, rest)| dollars.parse::<i64>().unwrap() * 1_000_000_000 + rest.parse::<i64>().unwrap())
}

#[tokio::test]
async fn records_roll_ups_reports_and_files_are_the_same_money() {
    // Of 500 records; LEDGER_TEST_PAGES=2000 for a million.
    let pages = std::env::var("LEDGER_TEST_PAGES").map_or(60, |pages| pages.parse().unwrap());
    for home in Home::each().await {
        let (ledger, rng) = (home.ledger().await, SeededRng::new(11));
        let mut counters = Sums::default();
        let mut written = Vec::new();
        for page in 0..pages {
            let mut records: Vec<CostRecord> = (0..500).map(|number| random(&rng, page * 500 + number + 1)).collect();
            // Some come again, in the same page and in another.
            records.extend(records.iter().take(9).cloned().collect::<Vec<_>>());
            records.extend(written.iter().rev().take(9).cloned());
            CostSink::record(&ledger, &records).await.unwrap();
            for record in records.drain(..500) {
                counters.add(&record);
                written.push(record);
            }
        }
        (counters.usage.pixels, counters.usage.seconds) = (0, 0);
        let records = audit(&ledger).await;
        assert_eq!((records.len(), sums(&records)), (written.len(), counters));
        for by in [
            By::Model,
            By::Tenant,
            By::Task,
            By::Priority,
            By::Upstream,
            By::Day,
            By::Month,
            By::Session,
            By::Tag("team".into()),
        ] {
            let report = ledger.report(&ReportQuery::new(always()).by(by.clone())).await.unwrap();
            assert_eq!(report.total, counters, "by {}", by.name());
        }
        let acme = ledger.report(&ReportQuery::new(always()).tenant("acme")).await.unwrap().total;
        let of_acme: Vec<_> = records.iter().filter(|record| record.tenant == Some("acme".into())).cloned().collect();
        assert_eq!(acme, sums(&of_acme));

        let (csv, json) = (Paper::default(), Paper::default());
        for (format, paper) in [(Format::Csv, &csv), (Format::JsonLines, &json)] {
            assert_eq!(ledger.export(always(), format, paper.clone()).await.unwrap(), written.len() as u64);
        }
        let mut of_csv = BTreeMap::<String, i64>::new();
        let mut lines = csv::Reader::from_reader(std::io::Cursor::new(csv.text()));
        let names = lines.headers().unwrap().clone();
        let at = |name: &str| names.iter().position(|other| other == name).unwrap();
        for line in lines.records() {
            let line = line.unwrap();
            *of_csv.entry(line[at("cost")].to_owned()).or_default() += nanos(&line[at("cost_usd")]);
        }
        assert_eq!((of_csv["known"], of_csv["at most"]), (counters.known.nanos(), counters.unknown.nanos()));
        let mut of_json = BTreeMap::<String, i64>::new();
        for line in json.text().lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            *of_json.entry(line["cost"].as_str().unwrap().to_owned()).or_default() +=
                line["cost_usd"].as_str().map_or(0, nanos);
        }
        assert_eq!(of_json, of_csv);
    }
}

#[tokio::test]
async fn a_file_tells_the_prices_and_has_its_names_even_if_nothing_else() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        let empty = Paper::default();
        assert_eq!(ledger.export(always(), Format::Csv, empty.clone()).await.unwrap(), 0);
        let mut priced = record(1);
        let usd = |text: &str| text.parse::<Usd>().unwrap();
        let mut price = Price::per_million(usd("0.15"), usd("0.600001"));
        (price.pixel, price.audio_minute, price.hour) = (Rate::per_million(usd("0.0027")), usd("0.0015"), usd("5.76"));
        priced.price = Some(price);
        priced.usage.pixels = 1_048_576;
        CostSink::record(&ledger, &[priced]).await.unwrap();
        let full = Paper::default();
        ledger.export(always(), Format::Csv, full.clone()).await.unwrap();
        assert_eq!(empty.text().lines().collect::<Vec<_>>(), [full.text().lines().next().unwrap()]);
        let text = full.text();
        let mut lines = csv::Reader::from_reader(text.as_bytes());
        let names = lines.headers().unwrap().clone();
        let line = lines.records().next().unwrap().unwrap();
        let value = |name: &str| &line[names.iter().position(|other| other == name).unwrap()];
        assert_eq!(value("pixels"), "1048576");
        assert_eq!((value("input_usd_per_million"), value("cached_input_usd_per_million")), ("0.150000", "0.150000"));
        assert_eq!((value("output_usd_per_million"), value("image_usd")), ("0.600001", "0.000000000"));
        assert_eq!((value("megapixel_usd"), value("audio_minute_usd")), ("0.002700", "0.001500000"));
        assert_eq!(value("hour_usd"), "5.760000000");
    }
}

#[tokio::test]
async fn the_sums_can_be_made_anew() {
    for home in Home::each().await {
        let (ledger, rng) = (home.ledger().await, SeededRng::new(5));
        let records: Vec<CostRecord> = (1..2_000).map(|number| random(&rng, number)).collect();
        CostSink::record(&ledger, &records).await.unwrap();
        let before = ledger.report(&ReportQuery::new(always()).by(By::Day).by(By::Model)).await.unwrap();
        home.execute("DELETE FROM cost_day WHERE model = 'a/x'; UPDATE cost_hour SET known = known + 1").await;
        ledger.rebuild("UTC").await.unwrap();
        audit(&ledger).await;
        let after = ledger.report(&ReportQuery::new(always()).by(By::Day).by(By::Model)).await.unwrap();
        assert_eq!(after.rows, before.rows);
    }
}

/// One record an hour, for three days from that moment on.
async fn hourly(ledger: &Ledger, since_1970: Duration) {
    let page: Vec<CostRecord> = (0..72)
        .map(|hour| {
            let mut record = record(u128::from(hour) + 1);
            record.at = SystemTime::UNIX_EPOCH + since_1970 + secs(3_600) * hour;
            record
        })
        .collect();
    CostSink::record(ledger, &page).await.unwrap();
}

/// A report that each basis can give, by its zone.
#[cfg(feature = "postgres")]
pub(super) fn query_by_days() -> ReportQuery {
    let end = SystemTime::UNIX_EPOCH + OCTOBER + secs(86_400 * 30);
    ReportQuery::new(always().start..end).by(By::Day).by(By::Model).by(By::Tenant)
}

async fn days(ledger: &Ledger, zone: &str) -> (Basis, Vec<(String, u64)>) {
    // From a midnight in Berlin to another one.
    let start = SystemTime::UNIX_EPOCH + OCTOBER;
    let berlin = start - secs(2 * 3_600)..start + secs(4 * 86_400 - 3_600);
    let range = if zone == "Europe/Berlin" { berlin } else { always() };
    let query = ReportQuery::new(range).by(By::Day).zone(zone);
    let report = ledger.report(&query).await.unwrap();
    let rows = report.rows.iter().map(|row| (row.labels[0].to_string(), row.sums.attempts));
    (report.basis, rows.collect())
}

#[tokio::test]
async fn a_day_is_a_day_of_the_reports_zone_in_autumn_too() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        hourly(&ledger, OCTOBER).await;
        let day = |day: u32, hours: u64| (format!("2026-10-{day}"), hours);
        assert_eq!(days(&ledger, "UTC").await, (Basis::Days, vec![day(24, 24), day(25, 24), day(26, 24)]));
        // Berlin is two hours ahead, and one from the 25th on, which has 25 hours.
        let berlin = vec![day(24, 22), day(25, 25), day(26, 24), day(27, 1)];
        assert_eq!(days(&ledger, "Europe/Berlin").await, (Basis::Hours, berlin.clone()));
        // India is five hours and a half ahead: no sum of whole hours is a day there.
        let delhi = vec![day(24, 19), day(25, 24), day(26, 24), day(27, 5)];
        assert_eq!(days(&ledger, "Asia/Kolkata").await, (Basis::Records, delhi));
        ledger.rebuild("Europe/Berlin").await.unwrap();
        assert_eq!(days(&ledger, "Europe/Berlin").await, (Basis::Days, berlin));
        audit(&ledger).await;
        // What is written from now on falls into days of that zone.
        let mut late = record(1_000);
        late.at += secs(22 * 3_600);
        CostSink::record(&ledger, &[late]).await.unwrap();
        assert_eq!(days(&ledger, "Europe/Berlin").await.1[1], day(25, 26));
        assert!(ledger.rebuild("Europe/Atlantis").await.is_err());
    }
}

#[tokio::test]
async fn the_day_that_lacks_an_hour_in_spring_has_twenty_three() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        hourly(&ledger, MARCH).await;
        let day = |day: u32, hours: u64| (format!("2026-03-{day}"), hours);
        let start = SystemTime::UNIX_EPOCH + MARCH - secs(3_600);
        let berlin = ReportQuery::new(start..start + secs(4 * 86_400 - 3_600)).by(By::Day).zone("Europe/Berlin");
        for basis in [Basis::Hours, Basis::Days] {
            let report = ledger.report(&berlin).await.unwrap();
            let rows: Vec<_> = report.rows.iter().map(|row| (row.labels[0].to_string(), row.sums.attempts)).collect();
            assert_eq!((report.basis, rows), (basis, vec![day(28, 23), day(29, 23), day(30, 24), day(31, 2)]));
            ledger.rebuild("Europe/Berlin").await.unwrap();
        }
    }
}

#[tokio::test]
async fn both_hours_of_one_name_are_hours() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        hourly(&ledger, OCTOBER).await;
        let report = ledger.report(&ReportQuery::new(always()).by(By::Hour).zone("Europe/Berlin")).await.unwrap();
        let labels: Vec<&str> = report.rows.iter().map(|row| &*row.labels[0]).collect();
        assert_eq!(labels.len(), 72);
        assert!(labels.contains(&"2026-10-25T02:00+02:00") && labels.contains(&"2026-10-25T02:00+01:00"));
    }
}

#[tokio::test]
async fn what_is_too_old_goes_and_its_days_stay() {
    for home in Home::each().await {
        let store = home.store().await;
        let ledger = Ledger::new(&store);
        let old: Vec<CostRecord> = (1..1_200)
            .map(|number| {
                let mut record = record(number);
                record.at = SystemTime::UNIX_EPOCH + secs(86_400 * 365);
                record
            })
            .collect();
        CostSink::record(&ledger, &old).await.unwrap();
        let before = ledger.report(&ReportQuery::new(always())).await.unwrap();
        // Another ledger on it brings chores of its own, at once.
        let short = Ledger::keep_records(&store, secs(86_400 * 30));
        while !short.records(always()).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let after = short.report(&ReportQuery::new(always())).await.unwrap();
        assert_eq!((after.basis, after.total, after.complete_since), (Basis::Days, before.total, None));
        short.rebuild("UTC").await.unwrap();
        assert_eq!(
            short.report(&ReportQuery::new(always())).await.unwrap().total,
            before.total,
            "nor does a rebuild take them"
        );
        let by_tag = short.report(&ReportQuery::new(always()).by(By::Session)).await.unwrap();
        assert!(by_tag.complete_since.is_some() && by_tag.rows.is_empty(), "what is missing is said");
    }
}

#[tokio::test]
async fn a_lost_attempt_whose_record_comes_after_all_counts_as_what_it_was() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        let late = record(1);
        let intent =
            together_inference::cost::Intent::new(late.clone(), Cost::Unknown { at_most: Usd::from_nanos(9_000_000) });
        CostSink::intend(&ledger, &intent).await.unwrap();
        CostSink::flush(&ledger).await.unwrap();
        // As if this process had been silent for long: another one strikes it out.
        home.silence_everybody().await;
        let other = home.ledger().await;
        let lost = loop {
            match audit(&other).await.pop() {
                Some(lost) => break lost,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!((lost.ending, lost.cost.charge().nanos()), (Ending::Lost, 9_000_000));
        CostSink::record(&ledger, std::slice::from_ref(&late)).await.unwrap();
        assert_eq!(audit(&other).await, std::slice::from_ref(&late));
        CostSink::record(&ledger, std::slice::from_ref(&late)).await.unwrap();
        assert_eq!(audit(&other).await, [late], "once");
    }
}
