//! The texts of a call, and what is known of each.

use std::{collections::HashMap, sync::Arc};

use crate::{
    client::EmbeddingInput,
    inference::{InvalidRequest, Origin},
    service::{
        error::{Error, ErrorKind},
        plan::Plan,
    },
    types::ModelId,
};

pub(super) type Vector = Arc<[f32]>;

/// More bytes than these a token has no natural language on average: a text that is too long even so surely is.
const MOST_BYTES_PER_TOKEN: usize = 8;

/// Refuses a text that cannot fit, by its number: the provider's own refusal does not say which.
pub(super) fn check_lengths(plan: &Plan, input: &EmbeddingInput) -> Result<(), Error> {
    let limits = plan.ranking.candidates.iter().map(|candidate| candidate.context);
    // A candidate whose limit is not known may take any text.
    let Some(limit) = limits.collect::<Option<Vec<_>>>().and_then(|limits| limits.into_iter().max()) else {
        return Ok(());
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let at = input.texts.iter().position(|text| text.len() / MOST_BYTES_PER_TOKEN > limit);
    at.map_or(Ok(()), |at| {
        let problem = format!("text {at} is too long: {} takes {limit} tokens a text; split it", plan.asked().model());
        Err(InvalidRequest::new("input", problem).into())
    })
}

/// A model by our name and by the provider's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    pub(super) asked: ModelId,
    pub(super) served: ModelId,
}

impl Model {
    /// One that answered as itself: under the name of another model nobody may find its vectors.
    pub(super) fn itself(model: &ModelId) -> Self {
        Self { asked: model.clone(), served: model.clone() }
    }

    pub(super) fn is_itself(&self) -> bool {
        self.asked == self.served
    }
}

/// What a call gave for a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Given {
    /// It was asked for, or is still to be.
    #[default]
    Money,
    /// The cache had it.
    Nothing(Origin),
    /// The cache had it, past its time.
    Age(Origin),
    /// Another call asked for it at the same time.
    Patience,
}

/// The texts of a call with what is known of each.
pub(super) struct Texts {
    vectors: Vec<Option<Vector>>,
    pub(super) given: Vec<Given>,
    /// For each text, the first one that says the same.
    first: Vec<usize>,
    /// What all vectors so far are of.
    pub(super) model: Option<Model>,
}

impl Texts {
    pub(super) fn new(input: &EmbeddingInput) -> Self {
        let mut seen = HashMap::with_capacity(input.texts.len());
        let first = input.texts.iter().enumerate().map(|(at, text)| *seen.entry(text.as_str()).or_insert(at));
        let first = first.collect();
        let count = input.texts.len();
        Self { vectors: vec![None; count], given: vec![Given::Money; count], first, model: None }
    }

    /// Takes what the cache had of this model, in the order of the texts. A layer that answers fewer has nothing of the
    /// rest.
    pub(super) fn fill(&mut self, found: Vec<Option<(Vector, Origin)>>, model: &ModelId) {
        for (at, found) in found.into_iter().enumerate() {
            if let Some((vector, origin)) = found {
                self.take(at, &vector, Given::Nothing(origin));
            }
        }
        // Nothing is cached that another model answered.
        self.model = self.is_any_free().then(|| Model::itself(model));
    }

    pub(super) fn take(&mut self, at: usize, vector: &Vector, given: Given) {
        if let (Some(place), Some(was_given)) = (self.vectors.get_mut(at), self.given.get_mut(at)) {
            (*place, *was_given) = (Some(Arc::clone(vector)), given);
        }
    }

    /// Whether all vectors can be of this model, which they then are.
    pub(super) fn is_of(&mut self, model: &Model) -> bool {
        self.model.get_or_insert_with(|| model.clone()) == model
    }

    /// Whether a vector came from the cache or another call.
    pub(super) fn is_any_free(&self) -> bool {
        self.given.iter().any(|given| *given != Given::Money)
    }

    /// Where the last one that was found was, if any was.
    pub(super) fn origin(&self, of: impl Fn(Given) -> Option<Origin>) -> Option<Origin> {
        self.given.iter().rev().find_map(|given| of(*given))
    }

    /// Forgets all vectors: another model is to make them.
    pub(super) fn clear(&mut self) {
        self.vectors.fill(None);
        self.given.fill(Given::Money);
        self.model = None;
    }

    /// The texts to ask for, each once.
    pub(super) fn missing(&self) -> Vec<usize> {
        let texts = self.vectors.iter().zip(&self.first).enumerate();
        texts.filter(|(at, (vector, first))| vector.is_none() && at == *first).map(|(at, _)| at).collect()
    }

    /// Every text's vector, that of its first like where it was not asked for.
    pub(super) fn into_vectors(self) -> Result<Vec<Vector>, Error> {
        let of = |(own, first): (&Option<Vector>, &usize)| own.clone().or_else(|| self.vectors.get(*first)?.clone());
        let all: Option<Vec<_>> = self.vectors.iter().zip(&self.first).map(of).collect();
        all.ok_or_else(|| Error::new(ErrorKind::Upstream, "the provider answered fewer vectors than texts"))
    }
}
