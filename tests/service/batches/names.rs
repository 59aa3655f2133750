//! A name makes a submission idempotent.

use together_inference::service::{BatchOptions, ErrorKind};

use super::{Shop, lines};
use crate::world::secs;

#[tokio::test(start_paused = true)]
async fn one_name_is_one_batch_at_any_time_and_from_anywhere() {
    let shop = Shop::new().await;
    let submit = || shop.service.batch(lines(4)).name("labels").submit();
    let (one, other) = tokio::join!(submit(), submit());
    let id = one.unwrap().id();
    assert_eq!(other.unwrap().id(), id, "two at once");
    shop.service.find_batch(id).await.unwrap().await.unwrap();
    let requests = shop.sim.requests().len();
    assert_eq!(submit().await.unwrap().id(), id, "after its end");
    let restarted = shop.another(BatchOptions::default());
    assert_eq!(restarted.batch(lines(4)).name("labels").submit().await.unwrap().id(), id, "after a restart");
    assert_eq!((shop.sim.requests().len(), shop.sim.batches().len()), (requests, 1));
    let other_lines = shop.service.batch(lines(5)).name("labels").submit().await.unwrap_err();
    assert_eq!(other_lines.kind(), ErrorKind::NameTaken);
    assert!(other_lines.to_string().contains(id.as_str()), "{other_lines}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_discarded_is_no_answer_to_its_name() {
    let shop = Shop::new().await;
    let submit = || shop.service.batch(lines(4)).name("labels").submit();
    let ticket = submit().await.unwrap();
    let early = ticket.clone().discard().await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::InvalidRequest, "it is not over");
    ticket.clone().await.unwrap();
    ticket.clone().discard().await.unwrap();
    assert_eq!(shop.service.find_batch_named("labels").await.unwrap_err().kind(), ErrorKind::NoBatch);
    assert_eq!(ticket.results().next().await.unwrap_err().kind(), ErrorKind::NoBatch);
    let again = submit().await.unwrap();
    assert_ne!(again.id(), ticket.id());
    assert!(again.await.unwrap().is_complete());
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_forgotten_when_its_retention_is_over() {
    let options = BatchOptions::default().retention(secs(3_600));
    let shop = Shop::at_pace(secs(20), options, |builder| builder).await;
    let ticket = shop.submit(lines(4)).await;
    ticket.clone().await.unwrap();
    let over = tokio::time::Instant::now();
    while shop.service.find_batch(ticket.id()).await.is_ok() {
        tokio::time::sleep(secs(60)).await;
    }
    let kept = over.elapsed();
    assert!(kept >= secs(3_500) && kept <= secs(4_000), "{kept:?}");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn equal_lines_under_two_names_are_two_batches() {
    let shop = Shop::new().await;
    let lines = || (0..4).map(|number| super::line(number).temperature(1.0)).collect::<Vec<_>>();
    let one = shop.service.batch(lines()).name("one").submit().await.unwrap();
    let other = shop.service.batch(lines()).name("other").submit().await.unwrap();
    assert_ne!(one.id(), other.id());
    assert!(one.await.unwrap().is_complete() && other.await.unwrap().is_complete());
    let jobs = shop.sim.batches();
    assert_eq!(jobs.len(), 2);
    assert_ne!(jobs[0].input_file_id, jobs[1].input_file_id, "the same lines are not the same file");
    shop.judge().await;
}

#[tokio::test(start_paused = true)]
async fn tenants_have_names_of_their_own() {
    let shop = Shop::new().await;
    let (acme, other) = (shop.service.for_tenant("acme"), shop.service.for_tenant("other"));
    let one = acme.batch(lines(2)).name("labels").submit().await.unwrap();
    let two = other.batch(lines(2)).name("labels").submit().await.unwrap();
    assert_ne!(one.id(), two.id());
    assert_eq!(acme.find_batch_named("labels").await.unwrap().id(), one.id());
    assert_eq!(acme.find_batch(one.id()).await.unwrap().id(), one.id());
    assert_eq!(acme.find_batch(two.id()).await.unwrap_err().kind(), ErrorKind::NoBatch);
    let foreign = acme.batch([super::line(0).tenant("other")]).submit().await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::InvalidRequest);
}
