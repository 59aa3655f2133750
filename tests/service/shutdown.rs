//! An orderly end, and services that outlive their runtime.

use std::{
    sync::{LazyLock, Mutex},
    time::Duration,
};

use together_inference::{
    InferenceService, async_trait,
    cost::{CostRecord, CostSink, MemoryCosts, SinkError},
    limit::Limits,
    service::ErrorKind,
    testing::Together,
};
use tokio::time::{Instant, sleep};

use crate::world::{LARGE, World, ask, ms, muse, secs, spawn};

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_running_calls_and_takes_no_new_ones() {
    // Scenario: twenty plain calls, ten cacheable ones and five streams under way, a second each; a shutdown with 30 s.
    // Expected: new calls are refused at once, all 35 are answered, none is cancelled, every record is there.
    let world = World::new();
    world.sim.latency(secs(1));
    let plain = (0..20).map(|number| world.spawn(muse(number.to_string())));
    let cacheable = (0..10).map(|number| world.spawn(ask(number.to_string())));
    let mut calls: Vec<_> = plain.chain(cacheable).collect();
    let streams = (0..5).map(|_| {
        let stream = world.service.stream(muse("talk"));
        spawn(async move { stream.await?.finish().await })
    });
    calls.extend(streams);
    sleep(ms(100)).await;
    let (start, service) = (Instant::now(), world.service.clone());
    let ending = spawn(async move { service.shutdown(secs(30)).await });
    sleep(ms(100)).await;
    assert!(!world.service.health().accepting);
    let refused = world.service.complete(muse("late")).await.unwrap_err();
    assert_eq!((refused.kind(), start.elapsed()), (ErrorKind::ShuttingDown, ms(100)));
    assert_eq!(world.service.stream(muse("late")).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
    assert_eq!(world.service.complete(ask("3")).await.unwrap_err().kind(), ErrorKind::ShuttingDown);
    let drained = ending.await.unwrap();
    assert_eq!((drained.finished, drained.cancelled, drained.unknown, drained.records_lost), (35, 0, 0, 0));
    assert!(start.elapsed() <= secs(1));
    assert_eq!(world.costs.records().len(), 35, "they were written before the shutdown was over");
    for call in calls {
        call.await.unwrap().unwrap();
    }
    world.at_rest().await;
    let (again, start) = (world.service.shutdown(secs(30)).await, Instant::now());
    assert_eq!((again.finished, again.cancelled, start.elapsed()), (0, 0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn calls_that_do_not_end_are_cancelled_at_the_deadline() {
    // Scenario: an upstream that hangs; 1,000 calls for it, some cacheable, most of them waiting for a place; a shutdown
    // with 30 s, asked for twice.
    // Expected: at 30 s all are told, nothing more is sent, every attempt has its record as unknown.
    let world = World::new();
    world.sim.hang();
    let request = |number: u32| {
        let number_text = number.to_string();
        if number.is_multiple_of(10) { ask(number_text) } else { muse(number_text) }.model(LARGE).deadline(secs(100))
    };
    let calls: Vec<_> = (0..1_000).map(|number| world.spawn(request(number))).collect();
    sleep(ms(100)).await;
    let sent = world.calls();
    assert_eq!(sent, 64);
    let start = Instant::now();
    let (first, second) = tokio::join!(world.service.shutdown(secs(30)), world.service.shutdown(secs(30)));
    assert!(start.elapsed() < secs(31), "{:?}", start.elapsed());
    assert_eq!((first.finished, first.cancelled, first.unknown, first.records_lost), (0, 1_000, sent, 0));
    assert_eq!(second.cancelled, 1_000);
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::ShuttingDown);
    }
    assert_eq!(world.calls(), sent);
    assert_eq!(world.at_rest().await.len() as u64, sent);
}

#[tokio::test(start_paused = true)]
async fn a_stream_under_way_is_interrupted_at_the_deadline() {
    // Scenario: a stream that stalls, read by its caller; a shutdown with 5 s.
    // Expected: the reader hears of it, what had arrived is recorded.
    let world = World::new();
    world.sim.fail_next(1, together_inference::testing::Fault::stall_after(4));
    let stream = world.service.stream(muse("talk").model(LARGE)).await.unwrap();
    let reader = spawn(stream.finish());
    let drained = world.service.shutdown(secs(5)).await;
    assert_eq!((drained.finished, drained.cancelled, drained.unknown), (0, 1, 0));
    assert_eq!(reader.await.unwrap().unwrap_err().kind(), ErrorKind::ShuttingDown);
    let records = world.at_rest().await;
    assert_eq!((records.len(), records[0].usage.completion >= 4), (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_place_is_told_too() {
    let limits = Limits::default().concurrency(1);
    let world = World::with(|builder| builder.limits(limits));
    world.sim.hang();
    let calls: Vec<_> = (0..5).map(|number| world.spawn(muse(number.to_string()).model(LARGE))).collect();
    sleep(ms(10)).await;
    let drained = world.service.shutdown(secs(1)).await;
    assert_eq!((drained.cancelled, drained.unknown, world.calls()), (5, 1, 1));
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::ShuttingDown);
    }
    world.at_rest().await;
}

static SIM: LazyLock<Together> = LazyLock::new(Together::new);
static COSTS: LazyLock<MemoryCosts> = LazyLock::new(MemoryCosts::default);
static SERVICE: LazyLock<InferenceService> = LazyLock::new(|| {
    InferenceService::builder(SIM.client()).cost_sink(Dozing::default()).cost_sink(COSTS.clone()).build().unwrap()
});

/// Takes the first page only after so long that its runtime has ended by then.
#[derive(Debug, Default)]
struct Dozing(Mutex<bool>);

#[async_trait]
impl CostSink for Dozing {
    async fn record(&self, _: &[CostRecord]) -> Result<(), SinkError> {
        let first = !std::mem::replace(&mut *self.0.lock().unwrap(), true);
        if first {
            std::future::pending::<()>().await;
        }
        Ok(())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn a_service_in_a_static_outlives_its_runtimes_and_loses_no_record() {
    let service = LazyLock::force(&SERVICE); // built here, where there is no runtime
    let outside = service.complete(muse("why?"));
    let error = poll_outside(outside).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoRuntime);
    assert_eq!(poll_outside(service.stream(muse("why?"))).unwrap_err().kind(), ErrorKind::NoRuntime);
    assert_eq!(poll_outside(service.explain(&muse("why?"))).unwrap_err().kind(), ErrorKind::NoRuntime);
    for round in 0..5_u32 {
        let runtime = runtime();
        runtime.block_on(async {
            for number in 0..10 {
                service.complete(muse(number.to_string()).model(LARGE)).await.unwrap();
                service.complete(ask(format!("{round} {number}")).model(LARGE)).await.unwrap();
            }
            sleep(ms(10)).await;
            // A leader that dies with its runtime.
            SIM.latency(secs(1));
            let abandoned = spawn(service.complete(ask(format!("{round} abandoned")).model(LARGE)));
            sleep(ms(10)).await;
            SIM.latency(Duration::ZERO);
            drop(abandoned);
        });
        drop(runtime);
        assert_eq!(service.health().coalescing, 0, "its slot is free");
        assert_eq!(service.health().in_flight, 0);
    }
    runtime().block_on(async {
        service.complete(ask("0 abandoned").model(LARGE)).await.unwrap();
        assert!(service.flush().await);
    });
    assert_eq!(service.health().records_lost, 0);
    assert_eq!(COSTS.records().len(), 5 * 21 + 1);
    assert_eq!(SIM.calls(), 5 * 21 + 1);
}

#[test]
fn a_runtime_without_a_timer_is_a_typed_error() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert_eq!(world.service.complete(muse("why?")).await.unwrap_err().kind(), ErrorKind::NoRuntime);
        assert_eq!(world.service.complete(ask("why?")).await.unwrap_err().kind(), ErrorKind::NoRuntime);
        assert_eq!(world.service.stream(muse("why?")).await.unwrap_err().kind(), ErrorKind::NoRuntime);
        assert_eq!(world.service.explain(&muse("why?")).await.unwrap_err().kind(), ErrorKind::NoRuntime);
        assert!(!world.service.flush().await);
        world.service.shutdown(secs(1)).await;
    });
    assert_eq!(world.calls(), 0);
}

#[test]
fn a_shutdown_where_there_is_no_runtime_cancels_at_once() {
    // Scenario: a stream is held when its runtime is gone; flush and shutdown without one.
    // Expected: no panic; the stream is cut and counted, its record is kept for whoever flushes inside a runtime.
    let world = World::new();
    world.sim.token_latency(secs(1));
    let first = runtime();
    let mut stream = first.block_on(world.service.stream(muse("hello there"))).unwrap();
    drop(first);
    assert!(!poll_outside(world.service.flush()));
    let drained = poll_outside(world.service.shutdown(secs(30)));
    assert_eq!((drained.finished, drained.cancelled, drained.records_lost), (0, 1, 0));
    assert_eq!(world.service.health().in_flight, 0);
    assert_eq!(poll_outside(stream.next()).unwrap().unwrap_err().kind(), ErrorKind::ShuttingDown);
    assert_eq!(runtime().block_on(world.at_rest()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_may_wait_for_ever() {
    let world = World::new();
    world.sim.latency(secs(100));
    let call = world.spawn(muse("why?").deadline(secs(200)));
    sleep(ms(1)).await;
    let drained = world.service.shutdown(Duration::MAX).await;
    assert_eq!((drained.finished, drained.cancelled), (1, 0));
    call.await.unwrap().unwrap();
    world.at_rest().await;
}

/// Polls once where there is no runtime.
fn poll_outside<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("it waits where there is no runtime"),
    }
}
