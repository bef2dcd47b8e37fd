//! The global sequence of visits: which case of which cache comes when, and whether the caches suit the stream.

use std::sync::Arc;

use hiend_cache::{Cache, Case};

use super::{Error, StreamConfig};
use crate::epoch::VisitOrder;
use crate::mix::Mix;
use crate::preprocess::{PreprocessConfig, window::Store};
use crate::split::{CaseName, Selector};

/// Visits by number; a pure function of seed, caches, weights and selection.
#[derive(Debug)]
pub(super) struct Sequence {
    mix: Mix,
    sources: Vec<CacheSource>,
}

/// A cache and the cases that are taken from it.
#[derive(Debug)]
struct CacheSource {
    cache: Arc<Cache>,
    cases: Vec<usize>,
    order: VisitOrder,
}

impl Sequence {
    /// Selects cases and checks that they suit the stream; returns the window, too.
    pub(super) fn new(
        caches: Vec<(Arc<Cache>, u32)>,
        config: &StreamConfig,
        seed: u64,
    ) -> Result<(Self, [f64; 2]), Error> {
        let bad = |reason: String| Error::BadConfig(reason);
        let weights: Vec<u32> = caches.iter().map(|&(_, weight)| weight).collect();
        let mix = Mix::new(seed, &weights).map_err(bad)?;
        let selector = Selector::new(&config.include, &config.exclude, &config.split).map_err(bad)?;
        let mut sources: Vec<CacheSource> = Vec::with_capacity(caches.len());
        let mut common: Option<PreprocessConfig> = None;
        for (number, (cache, _)) in (0..).zip(caches) {
            let unsuitable = |reason: String| Error::Unsuitable { path: cache.dir().to_owned(), reason };
            let cases = select(&cache, &selector).map_err(unsuitable)?;
            let preprocess = check_cases(&cache, &cases, config).map_err(unsuitable)?;
            let common = common.get_or_insert_with(|| preprocess.clone());
            if common.spacing != preprocess.spacing {
                let (now, before) = (preprocess.spacing, common.spacing);
                return Err(unsuitable(format!("spacing {now:?}, but {before:?} in the cache before it")));
            }
            let windows = [common.window, preprocess.window].map(|window| window.map(f64::to_bits));
            if windows[0] != windows[1] && config.window.is_none() {
                let (now, before) = (preprocess.window, common.window);
                let reason = format!("window {now:?}, but {before:?} in the cache before it; set stream.window");
                return Err(unsuitable(reason));
            }
            let order = VisitOrder::new(seed, cases.len()).of_source(number);
            sources.push(CacheSource { cache, cases, order });
        }
        let window = config.window.or(common.map(|preprocess| preprocess.window));
        let window = window.ok_or_else(|| Error::BadConfig("no cache".into()))?;
        Ok((Self { mix, sources }, window))
    }

    /// The case of visit number `visit`, and its epoch.
    pub(super) fn visit(&self, visit: u64) -> (&Case, u64) {
        let turn = self.mix.turn(visit);
        let source = &self.sources[turn.source];
        let visit = source.order.visit(turn.visit);
        (&source.cache.cases()[source.cases[visit.case_idx]], visit.epoch)
    }

    /// All cases.
    pub(super) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.sources.iter().flat_map(|source| source.cases.iter().map(|&idx| &source.cache.cases()[idx]))
    }

    /// See [`super::Loader::digest`].
    pub(super) fn digest(&self) -> String {
        if let [source] = self.sources.as_slice()
            && source.cases.len() == source.cache.cases().len()
        {
            return source.cache.digest();
        }
        let mut hasher = blake3::Hasher::new();
        for (source, weight) in self.sources.iter().zip(self.mix.weights()) {
            hasher.update(&weight.to_le_bytes());
            for &idx in &source.cases {
                let case = &source.cache.cases()[idx];
                let record = case.record();
                let label = record.source.label_blake3.as_deref().unwrap_or_default();
                for part in [case.key(), &record.source.image_blake3, label, &record.parameters] {
                    hasher.update(part.as_bytes());
                    hasher.update(&[0]);
                }
            }
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }
}

fn select(cache: &Cache, selector: &Selector) -> Result<Vec<usize>, String> {
    if cache.cases().is_empty() {
        return Err("holds no cases".into());
    }
    let name = |case| {
        let case: &Case = case;
        CaseName { dataset: &case.record().dataset, key: case.key() }
    };
    let names: Vec<CaseName<'_>> = cache.cases().iter().map(name).collect();
    let cases = selector.select(&names)?;
    if cases.is_empty() {
        return Err(format!("include, exclude and split leave none of its {} cases", names.len()));
    }
    Ok(cases)
}

/// The cases of a cache that a stream takes, and how they were made.
///
/// # Errors
/// As for a loader: none is taken, or they do not suit the stream.
pub fn cases_of(cache: &Cache, config: &StreamConfig) -> Result<(Vec<usize>, PreprocessConfig), Error> {
    let selector = Selector::new(&config.include, &config.exclude, &config.split).map_err(Error::BadConfig)?;
    let unsuitable = |reason: String| Error::Unsuitable { path: cache.dir().to_owned(), reason };
    let cases = select(cache, &selector).map_err(unsuitable)?;
    let preprocess = check_cases(cache, &cases, config).map_err(unsuitable)?;
    Ok((cases, preprocess))
}

/// What the cases must have for this stream; returns how they were made.
fn check_cases(cache: &Cache, cases: &[usize], config: &StreamConfig) -> Result<PreprocessConfig, String> {
    let cases = || cases.iter().map(|&idx| &cache.cases()[idx]);
    let first = cases().next().ok_or("holds no cases")?;
    let parameters = &first.record().parameters;
    if let Some(other) = cases().find(|case| case.record().parameters != *parameters) {
        let (a, b) = (first.key(), other.key());
        return Err(format!("{a} and {b} were made with different parameters; run hiend-shard again to its end"));
    }
    if config.labels
        && let Some(case) = cases().find(|case| case.record().label.is_none())
    {
        let key = case.key();
        return Err(format!("case {key} has no labels; exclude its dataset, or split by a list of labelled cases"));
    }
    let preprocess: Result<PreprocessConfig, _> = serde_json::from_value(cache.manifest().preprocess.clone());
    let preprocess = preprocess.map_err(|err| format!("manifest.json: preprocess: {err}"))?;
    let window = config.window.unwrap_or(preprocess.window);
    let inside = preprocess.window[0] <= window[0] && window[1] <= preprocess.window[1];
    if preprocess.store == Store::Window && !inside {
        let [low, high] = preprocess.window;
        return Err(format!("holds only {low} to {high} HU; window = {window:?} needs a cache made with --store full"));
    }
    Ok(preprocess)
}
