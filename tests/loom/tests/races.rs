//! Runs each model in every order of its steps.

use loom_models::races;

#[test]
fn a_bucket_grants_no_more_than_it_has() {
    loom::model(races::a_bucket_grants_no_more_than_it_has);
}

#[test]
fn a_place_goes_from_one_to_the_next() {
    loom::model(races::a_place_goes_from_one_to_the_next);
}

#[test]
fn a_turn_of_one_who_leaves_is_not_lost() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(races::a_turn_of_one_who_leaves_is_not_lost);
}

#[test]
fn a_half_open_route_has_one_probe() {
    loom::model(races::a_half_open_route_has_one_probe);
}

#[test]
fn an_ejection_is_seen_by_who_asks_after_it() {
    loom::model(races::an_ejection_is_seen_by_who_asks_after_it);
}
