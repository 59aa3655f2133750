//! The primitives that calls meet at. `tests/loom` compiles what uses them with loom's in their place, and looks for races
//! in every order of their steps.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicI64, Ordering},
};
