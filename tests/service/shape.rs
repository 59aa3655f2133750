//! What the compiler promises, and the size of a call.

use together_inference::{
    InferenceService,
    service::{Error, InferenceStream, TenantService},
    testing::Together,
};

use crate::world::muse;

const fn shared<T: Clone + Send + Sync + 'static>() {}
const fn movable<T: Send + Unpin + 'static>() {}

const _: () = {
    shared::<InferenceService>();
    shared::<TenantService>();
    shared::<Error>();
    movable::<InferenceStream>();
};

#[test]
fn the_future_of_a_call_is_at_most_two_kibibytes() {
    let service = InferenceService::builder(Together::new().client()).build().unwrap();
    let (complete, stream) = (size_of_val(&service.complete(muse("hi"))), size_of_val(&service.stream(muse("hi"))));
    println!("complete: {complete} bytes, stream: {stream} bytes, an open stream: {}", size_of::<InferenceStream>());
    assert!(complete <= 2_048 && stream <= 2_048, "{complete} {stream}");
}
