use std::{
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, SystemTime},
};

use tokio::time::advance;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use super::*;
use crate::notify::AlertKind;
use crate::notify::seen::MAX_KEYS;

fn alert(about: &str) -> Alert {
    Alert::new(AlertKind::BreakerOpen, about, "glm-5.3 fails", SystemTime::UNIX_EPOCH)
}

/// Keeps events as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>, Arc<AtomicU64>);

impl Lines {
    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "together_inference::alert"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1 + self.1.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        fmt::Write::write_fmt(&mut self.0, format_args!(" {field}={value:?}")).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_alert_is_one_event_of_its_severity_with_all_that_it_says() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let log = LogNotifier::default();
    log.notify(&alert("a").detail("failures", "8 of 10").detail("next try", "in 30 s")).await.unwrap();
    log.notify(&alert("b").with_severity(Severity::Critical)).await.unwrap();
    log.notify(&alert("c").with_severity(Severity::Info)).await.unwrap();
    let [first, second, third] = &lines.taken()[..] else { panic!("three events") };
    assert_eq!(
        first,
        "WARN message=glm-5.3 fails kind=\"breaker.open\" key=\"breaker.open:a\" \
         details=failures=8 of 10, next try=in 30 s suppressed=0"
    );
    assert!(second.starts_with("ERROR message=glm-5.3 fails"), "{second}");
    assert!(third.starts_with("INFO message=glm-5.3 fails"), "{third}");
}

/// Scenario: one alert is repeated every minute for eleven minutes, another once in between.
/// Expected: the first is written at 0 and at 10 minutes, which says that nine were left out; the other at once.
#[tokio::test(start_paused = true)]
async fn repeats_are_left_out_for_ten_minutes_and_counted() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let log = LogNotifier::default();
    for minute in 0..=10 {
        if minute == 5 {
            log.notify(&alert("other")).await.unwrap();
        }
        log.notify(&alert("same")).await.unwrap();
        advance(Duration::from_secs(60)).await;
    }
    let lines = lines.taken();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].contains("breaker.open:other"));
    assert!(lines[2].ends_with("suppressed=9"), "{lines:?}");
    assert_eq!(log.suppressed(), 9);
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let log = LogNotifier::default();
    for n in 0..5_000 {
        log.notify(&alert(&n.to_string())).await.unwrap();
    }
    assert_eq!(log.with_seen(|seen| seen.keys()), MAX_KEYS);
    log.notify(&alert(&(5_000 - MAX_KEYS).to_string())).await.unwrap();
    assert_eq!(log.suppressed(), 1, "the oldest that is remembered");
    log.notify(&alert(&(5_000 - MAX_KEYS - 1).to_string())).await.unwrap();
    assert_eq!(log.suppressed(), 1, "it was forgotten, and is written again");
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn the_log_keeps_the_promises_of_a_notifier_behind_every_pointer() {
    use crate::testing::conformance::notifier;

    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let received = || lines.0.lock().unwrap().clone();
    notifier(&LogNotifier::default(), &received).await.unwrap();
    let shared: Arc<dyn Notifier> = Arc::new(LogNotifier::default());
    notifier(&shared, &received).await.unwrap();
    let boxed: Box<dyn Notifier> = Box::new(LogNotifier::default());
    notifier(&*boxed, &received).await.unwrap();
}
