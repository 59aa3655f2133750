//! Days of one zone that become days of another, when the records of many of them are gone.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use together_inference::cost::{Basis, By, CostRecord, CostSink, Ledger, ReportQuery};

use super::{Home, always, secs, sums::record};

const DAY: u64 = 86_400;
const HOURS: u32 = 100 * 24;

/// A midnight (UTC), so many days ago.
#[expect(clippy::disallowed_methods, reason = "the ledger prunes by the machine's clock")]
fn midnight(days_ago: u64) -> SystemTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    SystemTime::UNIX_EPOCH + secs((now / DAY - days_ago) * DAY)
}

/// A ledger with a record an hour for a hundred days, of which the oldest records are gone.
async fn pruned(home: &Home) -> Ledger {
    let page: Vec<CostRecord> = (0..HOURS)
        .map(|hour| {
            let mut record = record(u128::from(hour) + 1);
            record.at = midnight(101) + secs(3_600) * hour;
            record
        })
        .collect();
    CostSink::record(&home.ledger().await, &page).await.unwrap();
    // Another ledger brings chores of its own, at once.
    let ledger = home.ledger().await;
    while !ledger.records(always().start..midnight(90)).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    ledger
}

async fn by(ledger: &Ledger, by: By) -> (Basis, Option<SystemTime>, BTreeMap<String, u64>) {
    let report = ledger.report(&ReportQuery::last_days(110).by(by)).await.unwrap();
    let mut days = BTreeMap::new();
    for row in &report.rows {
        *days.entry(row.labels[0][..10].to_owned()).or_default() += row.sums.attempts;
    }
    (report.basis, report.complete_since, days)
}

#[tokio::test]
async fn a_change_of_zone_loses_and_doubles_nothing_where_records_are_gone() {
    for home in Home::each().await {
        let ledger = pruned(&home).await;
        for zone in ["America/New_York", "Europe/Berlin", "UTC", "Asia/Tokyo"] {
            ledger.rebuild(zone).await.unwrap();
            let (hours, days) = (by(&ledger, By::Hour).await, by(&ledger, By::Day).await);
            assert_eq!((hours.0, days.0, days.1), (Basis::Hours, Basis::Days, None), "{zone}");
            assert_eq!(days.2, hours.2, "{zone}");
            assert_eq!(days.2.values().sum::<u64>(), u64::from(HOURS), "{zone}");
        }
    }
}

#[tokio::test]
async fn where_the_sums_of_hours_are_gone_too_nothing_is_lost_and_the_report_says_since_when_days_are_days() {
    for home in Home::each().await {
        let ledger = pruned(&home).await;
        let gone = midnight(95).duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let sql = format!(
            "DELETE FROM cost_hour WHERE bucket < {};
             INSERT INTO setting (name, value) VALUES ('ledger: hours pruned before', '{}')",
            gone / 3_600,
            gone * 1_000_000
        );
        home.execute(&sql).await;
        let mut since = None;
        for zone in ["America/New_York", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "UTC"] {
            ledger.rebuild(zone).await.unwrap();
            let (hours, days) = (by(&ledger, By::Hour).await, by(&ledger, By::Day).await);
            assert_eq!(days.2.values().sum::<u64>(), u64::from(HOURS), "{zone}");
            let complete = days.1.expect(zone);
            assert!(complete >= midnight(95) && Some(complete + secs(DAY)) > since, "{zone}");
            since = Some(complete);
            // From then on a day is what its hours are.
            let first = jiff::Timestamp::try_from(complete + Duration::from_secs(DAY / 2)).unwrap();
            let first = first.in_tz(zone).unwrap().date().to_string();
            let late = |days: &BTreeMap<String, u64>| -> Vec<_> {
                days.range(first.clone()..).map(|(day, count)| (day.clone(), *count)).collect()
            };
            if hours.0 == Basis::Hours {
                assert_eq!(late(&days.2), late(&hours.2), "{zone}");
                assert!(late(&days.2).len() > 85, "{zone}");
            }
            // A report that begins later is whole.
            let query = ReportQuery::last_days(60).by(By::Day);
            let report = ledger.report(&query).await.unwrap();
            assert_eq!((report.basis, report.complete_since), (Basis::Days, None), "{zone}");
        }
    }
}

#[tokio::test]
async fn hours_that_are_not_whole_come_from_records() {
    for home in Home::each().await {
        let ledger = home.ledger().await;
        let mut early = record(1);
        early.at = SystemTime::UNIX_EPOCH + secs(1_792_800_000 + 20 * 60);
        let mut late = record(2);
        late.at = early.at + secs(20 * 60);
        CostSink::record(&ledger, &[early, late]).await.unwrap();
        let query = ReportQuery::new(always()).by(By::Hour);
        let report = ledger.report(&query.clone().zone("Asia/Kolkata")).await.unwrap();
        let rows: Vec<_> = report.rows.iter().map(|row| (&*row.labels[0], row.sums.attempts)).collect();
        assert_eq!(report.basis, Basis::Records);
        assert_eq!(rows, [("2026-10-24T05:00+05:30", 1), ("2026-10-24T06:00+05:30", 1)]);
        assert_eq!(ledger.report(&query).await.unwrap().basis, Basis::Hours);
    }
}
