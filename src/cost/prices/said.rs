//! What each source says of one route.

use super::PriceSource;
use crate::types::Price;

/// The prices of a route by whose word they are.
#[derive(Debug, Default)]
pub(super) struct Said {
    catalogue: Option<Price>,
    model_list: Option<Price>,
    supported_models: Option<Price>,
    user: Option<Price>,
}

impl Said {
    pub(super) const fn set(&mut self, source: PriceSource, price: Option<Price>) {
        *match source {
            PriceSource::Catalogue => &mut self.catalogue,
            PriceSource::ModelList => &mut self.model_list,
            PriceSource::SupportedModels => &mut self.supported_models,
            PriceSource::User => &mut self.user,
        } = price;
    }

    /// What counts, and by whose word.
    pub(super) fn strongest(&self) -> Option<(PriceSource, Price)> {
        let by = |source: PriceSource, price: Option<Price>| price.map(|price| (source, price));
        by(PriceSource::User, self.user)
            .or_else(|| by(PriceSource::SupportedModels, self.supported_models))
            .or_else(|| by(PriceSource::ModelList, self.model_list))
            .or_else(|| by(PriceSource::Catalogue, self.catalogue))
    }
}
