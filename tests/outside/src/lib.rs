//! Nothing of its own: what it is for stands in its tests.
