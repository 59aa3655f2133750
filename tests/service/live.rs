//! Streams that are over, broken or held: what they hold, and what a shutdown finds.

use std::{cell::RefCell, sync::Once};

use together_inference::{Cost, Usd, cost::Ending, router::Override, service::ErrorKind, testing::Fault};
use tokio::time::{Instant, sleep};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::world::{LARGE, MID, World, ms, muse, route, secs, spawn, used};

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_over_holds_nothing() {
    // Scenario: a stream that is read to its end and kept, and one that breaks and is kept.
    // Expected: nothing is in flight, reserved or open; the text is still there; a shutdown does not wait.
    for broken in [false, true] {
        let world = World::new();
        world.sim.on("").reply("one two three four five");
        if broken {
            world.sim.fail_next(1, Fault::cut_after(3));
        }
        let mut stream = world.service.stream(muse("why?")).await.unwrap();
        let mut text = String::new();
        while let Some(Ok(delta)) = stream.next().await {
            text.push_str(delta.text());
        }
        assert_eq!((stream.text(), text.is_empty()), (text.as_str(), false));
        assert_eq!(world.at_rest().await.len(), 1);
        let start = Instant::now();
        let drained = world.service.shutdown(secs(30)).await;
        assert_eq!((drained.finished, drained.cancelled, start.elapsed()), (0, 0, secs(0)));
        assert!(stream.next().await.is_none());
        assert_eq!(stream.text(), text);
        assert_eq!(stream.finish().await.is_err(), broken);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_held_unread_is_settled_by_a_shutdown() {
    // Scenario: five streams of which the callers read a piece and then nothing, the first model of each having failed;
    // a shutdown of a second.
    // Expected: after that second every record is there and every connection closed; whoever reads on hears of it, with
    // both attempts and what the records say.
    let world = World::new();
    world.sim.token_latency(secs(1));
    world.service.force(&route(LARGE), Some(Override::Admit));
    world.sim.fail_next_of(LARGE, 5, Fault::disconnect());
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = world.service.stream(muse("hello there").models([LARGE, MID])).await.unwrap();
        stream.next().await.unwrap().unwrap();
        streams.push(stream);
    }
    assert_eq!(world.service.health().in_flight, 5);
    let start = Instant::now();
    let drained = world.service.shutdown(secs(1)).await;
    assert_eq!((drained.finished, drained.cancelled, drained.records_lost, start.elapsed()), (0, 5, 0, secs(1)));
    let records = world.costs.records();
    assert_eq!((records.len(), world.sim.open_streams(), world.service.health().in_flight), (10, 0, 0));
    assert_eq!(used(&world.service).await.1, Usd::ZERO);
    for mut stream in streams {
        let text = stream.text().to_owned();
        let error = stream.next().await.unwrap().unwrap_err();
        assert_eq!((error.kind(), error.attempts().len()), (ErrorKind::ShuttingDown, 2));
        let cut = records.iter().find(|record| record.ending == Ending::Cancelled).unwrap();
        assert_eq!((error.attempts()[1].cost, error.attempts()[1].route.model().as_str()), (cut.cost, MID));
        assert_eq!(error.cost(), error.attempts()[0].cost.plus(cut.cost));
        assert!(error.decision().is_some() && cut.cost.charge() > Usd::ZERO);
        assert!(stream.next().await.is_none());
        assert!(!text.is_empty() && stream.text() == text);
    }
    world.at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_a_shutdown_cuts_off_is_told_what_it_cost() {
    let world = World::new();
    world.sim.token_latency(secs(5));
    let stream = world.service.stream(muse("hello there").model(LARGE)).await.unwrap();
    let reader = spawn(stream.finish());
    sleep(ms(1)).await;
    world.service.shutdown(secs(7)).await;
    let error = reader.await.unwrap().unwrap_err();
    let records = world.at_rest().await;
    assert_eq!((error.kind(), error.attempts().len(), records.len()), (ErrorKind::ShuttingDown, 1, 1));
    assert_eq!(error.cost(), records[0].cost);
    assert!(matches!(error.cost(), Cost::Known(cost) if cost > Usd::ZERO));
}

thread_local! {
    /// The events of this thread's test that say how a call ended.
    static ENDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Listens for the whole process, once: a subscriber of one thread alone would miss events that another test's thread was
/// the first to register.
#[derive(Debug)]
struct Ends;

impl Ends {
    fn listen() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Self).unwrap());
        ENDS.take();
    }
}

impl Subscriber for Ends {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "together_inference::service" || metadata.target() == "together_inference::service::stream"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        ENDS.with_borrow_mut(|ends| ends.push(line.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if ["message", "kind", "attempts"].contains(&field.name()) {
            self.0 += &format!("{value:?} ");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_once_how_it_ended() {
    Ends::listen();
    let world = World::new();
    world.service.stream(muse("why?").model(LARGE)).await.unwrap().finish().await.unwrap();
    world.sim.fail_next(1, Fault::cut_after(3));
    world.service.stream(muse("why?").model(LARGE)).await.unwrap().finish().await.unwrap_err();
    world.sim.fail_next(1, Fault::status(422));
    world.service.stream(muse("why?").model(LARGE)).await.unwrap_err();
    drop(world.service.stream(muse("why?").model(LARGE)).await.unwrap());
    let ends = ENDS.take();
    let expected =
        ["answered 1", "not answered \"interrupted\" 1", "not answered \"refused\" 1", "not answered \"cancelled\" 1"];
    assert_eq!(ends.iter().map(|line| line.trim()).collect::<Vec<_>>(), expected);
    world.at_rest().await;
}
