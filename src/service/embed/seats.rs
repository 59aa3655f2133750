//! Texts that several calls want at the same time: one of them asks.
//!
//! The same thought as in `coalesce`, for each text by itself: whoever wants a text that nobody asks for yet leads. The
//! leader is a task of the service and looks the text up again inside its slot; those that wait are answered, the cache is
//! written, and only then is the slot free.
//!
//! # Why a wish is more than a text
//!
//! Calls that may be answered by other models than this one, or take older vectors, or keep them for longer, would have to
//! judge what they are given. They wait for their like alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::watch, time::Instant};

use super::texts::{Given, Model, Vector};
use crate::{
    inference::{CacheControl, CacheKey, Input, Origin},
    service::{attempts::Done, coalesce::LEADER_PATIENCE, error::Error, plan::Plan, state::State},
    types::RouteId,
};

/// What a leader brought.
pub(super) struct Brought {
    /// What the cache had after all, one for each of its texts.
    found: Vec<Option<(Vector, Origin)>>,
    /// The answer to the rest, if any was left.
    pub(super) done: Option<Done>,
}

impl Brought {
    /// An answer to all texts.
    pub(super) fn all(done: Done, count: usize) -> Self {
        Self { found: vec![None; count], done: Some(done) }
    }

    /// The models that the vectors are of: what is cached is the first choice's.
    pub(super) fn models(&self, asked: &RouteId) -> impl Iterator<Item = Model> {
        let found = self.found.iter().any(Option::is_some).then(|| Model::itself(asked.model()));
        found.into_iter().chain(self.done.as_ref().map(model_of))
    }

    /// Each text's vector, and what it took: `asked` for those that were asked for.
    pub(super) fn vectors(&self, asked: Given) -> impl Iterator<Item = Option<(&Vector, Given)>> {
        let mut answered = self.done.iter().flat_map(|done| done.answer.vectors());
        self.found.iter().map(move |found| match found {
            Some((vector, origin)) => Some((vector, Given::Nothing(*origin))),
            None => answered.next().map(|vector| (vector, asked)),
        })
    }
}

pub(super) fn model_of(done: &Done) -> Model {
    Model { asked: done.route.model().clone(), served: done.answer.served.clone() }
}

pub(super) type Led = Result<Arc<Brought>, Error>;
type Seat = watch::Receiver<Option<Led>>;

/// A text as a call wants it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wish {
    /// What its vector is cached under.
    pub(super) text: CacheKey,
    /// The call without its texts: what may answer.
    pub(super) call: CacheKey,
    /// Whether fewer models may answer than the call allows.
    pub(super) narrowed: bool,
    pub(super) control: CacheControl,
}

/// The texts under way, each with its leader's seat and its place among the leader's.
#[derive(Debug, Default)]
pub(in crate::service) struct TextSlots(Mutex<HashMap<Wish, (Seat, usize)>>);

impl std::fmt::Debug for Brought {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Brought({} texts)", self.found.len())
    }
}

impl TextSlots {
    fn lock(&self) -> MutexGuard<'_, HashMap<Wish, (Seat, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody joins the leaders for these texts any more, and their vectors are not kept.
    pub(in crate::service) fn forget(&self, which: impl Fn(&CacheKey) -> bool) {
        self.lock().retain(|wish, _| !which(&wish.text));
    }

    /// Leaders at work.
    pub(in crate::service) fn len(&self) -> usize {
        // One text of each is its first.
        self.lock().values().filter(|(_, place)| *place == 0).count()
    }
}

/// Frees the slots on every path, a panic of the leader included.
struct Slots {
    state: Arc<State>,
    wishes: Vec<Wish>,
    seat: Seat,
}

impl Slots {
    /// Whether each still has its slot.
    fn held(&self) -> Vec<bool> {
        let slots = self.state.text_slots.lock();
        let holds = |wish: &Wish| slots.get(wish).is_some_and(|(held, _)| held.same_channel(&self.seat));
        self.wishes.iter().map(holds).collect()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let mut slots = self.state.text_slots.lock();
        for wish in &self.wishes {
            if slots.get(wish).is_some_and(|(held, _)| held.same_channel(&self.seat)) {
                slots.remove(wish);
            }
        }
    }
}

/// A call's seats at one leader.
pub(super) struct Seats {
    pub(super) led: Seat,
    pub(super) leads: bool,
    /// The answer was there when this call came, only not yet in the cache.
    pub(super) is_kept: bool,
    /// Each text's number in the call, and its place among the leader's.
    pub(super) texts: Vec<(usize, usize)>,
}

/// A leader's part of a call, and how many attempts went before it.
pub(super) struct Part {
    pub(super) plan: Plan,
    pub(super) attempted: u16,
}

impl State {
    /// Seats for these texts: first at a leader of the call's own, for what nobody asks for yet. `part` makes its part.
    pub(super) fn seats(
        self: &Arc<Self>,
        wishes: Vec<(usize, Wish)>,
        looks_again: bool,
        part: impl FnOnce(&[usize]) -> Part,
    ) -> Vec<Seats> {
        let (answer, led) = watch::channel(None);
        let mut own = Seats { led: led.clone(), leads: true, is_kept: false, texts: Vec::new() };
        let (mut leads, mut joined) = (Vec::new(), Vec::<Seats>::new());
        let mut slots = self.text_slots.lock();
        for (at, wish) in wishes {
            let Some((seat, place)) = slots.get(&wish) else {
                own.texts.push((at, leads.len()));
                slots.insert(wish.clone(), (led.clone(), leads.len()));
                leads.push(wish);
                continue;
            };
            match joined.iter_mut().find(|seats| seats.led.same_channel(seat)) {
                Some(seats) => seats.texts.push((at, *place)),
                None => {
                    let is_kept = seat.borrow().as_ref().is_some_and(Result::is_ok);
                    joined.push(Seats { led: seat.clone(), leads: false, is_kept, texts: vec![(at, *place)] });
                }
            }
        }
        drop(slots);
        if leads.is_empty() {
            return joined;
        }
        let part = part(&own.texts.iter().map(|(at, _)| *at).collect::<Vec<_>>());
        let (state, slots) = (Arc::clone(self), Slots { state: Arc::clone(self), wishes: leads, seat: led });
        self.tasks.spawn(async move {
            state.lead_texts(&slots, part, looks_again, &answer).await;
            // Last: whoever comes in between finds the seat with its answer.
            drop(slots);
        });
        joined.insert(0, own);
        joined
    }

    async fn lead_texts(
        self: &Arc<Self>,
        slots: &Slots,
        Part { plan, attempted }: Part,
        looks_again: bool,
        waiting: &watch::Sender<Option<Led>>,
    ) {
        let (count, control) =
            (slots.wishes.len(), slots.wishes.first().map_or_else(CacheControl::new, |wish| wish.control));
        let mut found = Vec::new();
        if looks_again {
            // The vectors may have come while their callers missed them.
            let keys: Vec<_> = slots.wishes.iter().map(|wish| wish.text).collect();
            found = self.look_up_many(&keys, &control, Instant::now() + LEADER_PATIENCE).await.vectors;
        }
        found.resize(count, None);
        let lacking: Vec<_> = found.iter().enumerate().filter(|(_, found)| found.is_none()).map(|(at, _)| at).collect();
        if lacking.is_empty() {
            waiting.send_replace(Some(Ok(Arc::new(Brought { found, done: None }))));
            return;
        }
        let plan = rest_of(plan, &lacking, attempted).with_patience(LEADER_PATIENCE);
        // On the heap, so that the task that is spawned for it stays small.
        let led = Box::pin(self.answer(&plan)).await.map(|done| Arc::new(Brought { found, done: Some(done) }));
        waiting.send_replace(Some(led.clone()));
        if let Ok(Brought { done: Some(done), .. }) = led.as_deref() {
            let held = slots.held();
            let is_kept = |at: &usize| held.get(*at).copied().unwrap_or_default();
            let kept = lacking.iter().map(is_kept).collect::<Vec<_>>();
            self.keep_vectors(&plan, done, &control, |at| kept.get(at).copied().unwrap_or_default()).await;
        }
    }

    /// Keeps the vectors of an answer under the route that made them, those that may be.
    pub(super) async fn keep_vectors(
        &self,
        part: &Plan,
        done: &Done,
        control: &CacheControl,
        may_be: impl Fn(usize) -> bool + Send,
    ) {
        let Input::Embedding(input) = part.request.input() else { return };
        // Under the name of another model nobody may find them.
        if !control.write || !model_of(done).is_itself() {
            return;
        }
        let keys = self.keys_by(part, input, &done.route);
        let vectors = keys.into_iter().zip(done.answer.vectors().iter().cloned()).enumerate();
        let vectors = vectors.filter(|(at, _)| may_be(*at)).map(|(_, kept)| kept).collect();
        self.keep_many(part.moment, vectors, control).await;
    }
}

/// The part of these texts alone.
fn rest_of(part: Plan, lacking: &[usize], attempted: u16) -> Plan {
    let Input::Embedding(input) = part.request.input() else { return part };
    if lacking.len() == input.texts.len() {
        return part;
    }
    let texts = lacking.iter().filter_map(|at| input.texts.get(*at)).cloned().collect();
    part.part(part.request.with_texts(texts), part.ranking.clone(), (attempted, part.spent))
}
