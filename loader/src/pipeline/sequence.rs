//! Global sequence of visits with the case of each, and checks that the caches are suitable for the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hiend_cache::{Cache, Case, Codec};

use super::{Error, StreamConfig, Unsuitable};
use crate::convert::may_have;
use crate::dataset::Difference;
use crate::epoch::VisitOrder;
use crate::mix::Mix;
use crate::plural::count;
use crate::preprocess::normalize::{Normalize, Units};
use crate::preprocess::{PreprocessConfig, window::Store};
use crate::split::{self, CaseName, Selector, Split};

/// Visits by number, as a pure function of seed, caches, weights and selection.
#[derive(Debug)]
pub(super) struct Sequence {
    mix: Mix,
    caches: Vec<SelectedCases>,
    /// Label of voxels without annotation, by dataset; used only in a stream with labels.
    ignored: BTreeMap<String, u8>,
}

/// Selected cases of a cache, and the order in which they are visited.
#[derive(Debug)]
struct SelectedCases {
    cache: Arc<Cache>,
    cases: Vec<usize>,
    order: VisitOrder,
}

impl Sequence {
    /// Selects cases and checks that they are suitable for the stream. Also returns the units of the crops.
    pub(super) fn new(
        caches: Vec<(Arc<Cache>, u32)>,
        config: &StreamConfig,
        seed: u64,
    ) -> Result<(Self, Units), Error> {
        let weights: Vec<u32> = caches.iter().map(|&(_, weight)| weight).collect();
        let mix = Mix::new(seed, &weights)?;
        let selector = Selector::new(&config.include, &config.exclude, &config.split)?;
        let mut selected: Vec<SelectedCases> = Vec::with_capacity(caches.len());
        let mut first: Option<PreprocessConfig> = None;
        for (number, (cache, _)) in (0..).zip(caches) {
            let unsuitable = |reason| Error::Unsuitable { path: cache.dir().to_owned(), reason };
            let cases = select(&cache, &selector, config.labels).map_err(unsuitable)?;
            let preprocess = check_cases(&cache, &cases, config).map_err(unsuitable)?;
            let first = first.get_or_insert_with(|| preprocess.clone());
            if first.spacing != preprocess.spacing {
                let (found, expected) = (preprocess.spacing, first.spacing);
                return Err(unsuitable(Unsuitable::OtherSpacing { found, expected }));
            }
            if first.normalize != preprocess.normalize {
                let (found, expected) = (preprocess.normalize, first.normalize);
                return Err(unsuitable(Unsuitable::OtherNormalize { found, expected }));
            }
            // Z-scores mean the same whatever range of them is kept.
            let windows = [first.window, preprocess.window].map(|window| window.map(f64::to_bits));
            if windows[0] != windows[1] && config.window.is_none() && first.normalize.is_hu() {
                let (found, expected) = (preprocess.window, first.window);
                return Err(unsuitable(Unsuitable::OtherWindow { found, expected }));
            }
            if config.labels {
                check_classes(&selected, &cache, &cases).map_err(unsuitable)?;
            }
            let order = VisitOrder::new(seed, cases.len()).with_cache_number(number);
            selected.push(SelectedCases { cache, cases, order });
        }
        let units = first.map(|preprocess| preprocess.units(config.window));
        let ignored = if config.labels { ignored_labels(&selected, config.ignore_label) } else { BTreeMap::new() };
        Ok((Self { mix, caches: selected, ignored }, units.ok_or(Error::NoCache)?))
    }

    /// Returns the case and epoch of visit number `visit`.
    pub(super) fn visit(&self, visit: u64) -> (&Case, u64) {
        let (_, case, epoch) = self.visit_of(visit);
        (case, epoch)
    }

    /// Returns the cache, case and epoch of visit number `visit`.
    fn visit_of(&self, visit: u64) -> (&Cache, &Case, u64) {
        let turn = self.mix.turn(visit);
        let selected = &self.caches[turn.cache_idx];
        let visit = selected.order.visit(turn.visit);
        (&selected.cache, &selected.cache.cases()[selected.cases[visit.case_idx]], visit.epoch)
    }

    /// Returns the ignore label of the dataset of visit number `visit`, if it has one.
    pub(super) fn ignore_label(&self, visit: u64) -> Option<u8> {
        let (cache, case, _) = self.visit_of(visit);
        described_ignore(cache, &case.record().dataset)
    }

    /// Caches of the stream.
    pub(super) fn caches(&self) -> impl Iterator<Item = &Arc<Cache>> {
        self.caches.iter().map(|selected| &selected.cache)
    }

    /// All selected cases, cache after cache.
    pub(super) fn cases(&self) -> impl Iterator<Item = &Case> + Clone {
        self.caches.iter().flat_map(|selected| selected.cases.iter().map(|&idx| &selected.cache.cases()[idx]))
    }

    /// Checks that the image of every case is packed, so that a device can decode its chunks.
    pub(super) fn check_packed(&self) -> Result<(), Error> {
        let unpacked = self.cases().find(|case| !matches!(case.record().image.codec, Codec::Packed(_)));
        unpacked.map_or(Ok(()), |case| {
            let (path, case) = (case.shard().path().to_owned(), case.key().to_owned());
            Err(Error::Unsuitable { path, reason: Unsuitable::NotPacked { case } })
        })
    }

    /// Digest that [`super::Loader::digest`] returns.
    pub(super) fn digest(&self) -> String {
        let is_whole = |selected: &SelectedCases| selected.cases.len() == selected.cache.cases().len();
        self.with_ignored(match self.caches.as_slice() {
            [selected] if is_whole(selected) => selected.cache.digest(),
            _ => self.digest_of_part(),
        })
    }

    /// Returns true if `digest` is the stream's digest, or would be it if the only cache held fewer or more cases that are
    /// not selected.
    pub(super) fn has_digest(&self, digest: &str) -> bool {
        let [selected] = self.caches.as_slice() else { return digest == self.digest() };
        let mut hasher = blake3::Hasher::new();
        selected.hash_into(&mut hasher);
        [text_of(&hasher), self.digest_of_part()].into_iter().any(|cases| digest == self.with_ignored(cases))
    }

    /// Digest of cases, with labels also of the labels to ignore.
    fn with_ignored(&self, cases: String) -> String {
        if self.ignored.is_empty() {
            return cases;
        }
        // The source files do not state the label to ignore: `dataset.json` may name it later.
        let mut hasher = blake3::Hasher::new();
        hasher.update(cases.as_bytes());
        for (dataset, &label) in &self.ignored {
            hasher.update(dataset.as_bytes());
            hasher.update(&[0, label]);
        }
        text_of(&hasher)
    }

    /// Digest of the selected cases of several caches with their weights, or of a part of one cache.
    fn digest_of_part(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (selected, weight) in self.caches.iter().zip(self.mix.weights()) {
            hasher.update(&weight.to_le_bytes());
            selected.hash_into(&mut hasher);
        }
        text_of(&hasher)
    }
}

impl SelectedCases {
    /// Adds names, sources and parameters of the cases to a digest, as [`Cache::digest`] does for all cases of a cache.
    fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for &idx in &self.cases {
            let case = &self.cache.cases()[idx];
            let record = case.record();
            let label = record.source.label_blake3.as_deref().unwrap_or_default();
            for part in [case.key(), &record.source.image_blake3, label, &record.parameters] {
                hasher.update(part.as_bytes());
                hasher.update(&[0]);
            }
        }
    }
}

/// First 32 hex digits of a hash.
fn text_of(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Labels of voxels without annotation, by dataset: `given` for all datasets, or as the caches describe them. Datasets
/// without such a label are left out.
fn ignored_labels(caches: &[SelectedCases], given: Option<u8>) -> BTreeMap<String, u8> {
    let mut ignored = BTreeMap::new();
    for SelectedCases { cache, cases, .. } in caches {
        let datasets: BTreeSet<&str> = cases.iter().map(|&idx| cache.cases()[idx].record().dataset.as_str()).collect();
        for dataset in datasets {
            if let Some(label) = given.or_else(|| described_ignore(cache, dataset)) {
                ignored.insert(dataset.to_owned(), label);
            }
        }
    }
    ignored
}

/// Label that a cache names for voxels of a dataset without annotation.
fn described_ignore(cache: &Cache, dataset: &str) -> Option<u8> {
    cache.manifest().datasets.get(dataset)?.ignore
}

/// Checks that a cache describes the classes of its datasets in the same way as the caches before it. Otherwise a label
/// would mean different classes in crops of the same dataset.
fn check_classes(earlier: &[SelectedCases], cache: &Cache, cases: &[usize]) -> Result<(), Unsuitable> {
    let datasets_of = |cache: &Cache, cases: &[usize]| -> BTreeSet<String> {
        cases.iter().map(|&idx| cache.cases()[idx].record().dataset.clone()).collect()
    };
    let datasets = datasets_of(cache, cases);
    for other in earlier {
        for dataset in datasets_of(&other.cache, &other.cases).intersection(&datasets) {
            let info = |cache: &Cache| cache.manifest().datasets.get(dataset).cloned().unwrap_or_default();
            if let Some(difference) = Difference::between(&info(&other.cache), &info(cache)) {
                let other = other.cache.dir().display().to_string();
                let difference = difference.described(&format!("in {other}"), "here");
                return Err(Unsuitable::OtherClasses { dataset: dataset.clone(), difference });
            }
        }
    }
    Ok(())
}

/// Names of a cache's cases, in the order of the cache. With `labels`, cases without any are not usable.
fn names_of(cache: &Cache, labels: bool) -> Vec<CaseName<'_>> {
    let cases = cache.cases().iter().map(|case| {
        let record = case.record();
        CaseName { dataset: &record.dataset, key: case.key(), is_usable: !labels || record.label.is_some() }
    });
    cases.collect()
}

/// Remarks on the entries of [`StreamConfig::exclude`] that match no dataset of any of the caches, one line each; see
/// [`split::remarks_on_exclude`].
#[must_use]
pub fn remarks_on_exclude<'a>(caches: impl IntoIterator<Item = &'a Cache>, exclude: &[String]) -> Vec<String> {
    if exclude.is_empty() {
        return Vec::new();
    }
    let names: Vec<CaseName<'_>> = caches.into_iter().flat_map(|cache| names_of(cache, false)).collect();
    split::remarks_on_exclude(exclude, &names)
}

/// Remark that a stream with labels leaves out the unlabelled cases of the selected datasets of the caches; `None` if
/// there are none. Cases that the split names are not left out: they have labels, or the stream cannot be opened.
#[must_use]
pub fn remark_on_labels<'a>(caches: impl IntoIterator<Item = &'a Cache>, config: &StreamConfig) -> Option<String> {
    if !config.labels || config.split.names_cases() {
        return None;
    }
    let selector = Selector::new(&config.include, &config.exclude, &Split::default()).ok()?;
    let names: Vec<CaseName<'_>> = caches.into_iter().flat_map(|cache| names_of(cache, true)).collect();
    let (labelled, all) = selector.num_of_datasets(&names);
    let verb = if labelled == 1 { "has" } else { "have" };
    (0 < labelled && labelled < all)
        .then(|| format!("labels: {labelled} of {} {verb} labels; the others are left out", count(all, "case")))
}

/// Remark that both parts of a split hold the same image file, under one name in several caches or under several names; `None` if
/// they do not, or the split has no parts. Conversions tell of equal images in one cache only.
#[must_use]
pub fn remark_on_shared_scans<'a>(
    caches: impl IntoIterator<Item = &'a Cache>,
    config: &StreamConfig,
) -> Option<String> {
    let caches: Vec<&Cache> = caches.into_iter().collect();
    let others = keys_by_image(&caches, config, &config.split.other_part()?);
    let own = keys_by_image(&caches, config, &config.split);
    let mut shared = own.into_iter().filter_map(|(image, key)| Some([key, *others.get(image)?]));
    let [key, other] = shared.next()?;
    let scans = count(1 + shared.count(), "scan");
    // One name in two caches.
    let other = if key == other { "the other case of this name" } else { other };
    Some(format!(
        "split: train and validation share {scans}, such as {key}, whose image is that of {other}; convert it once, or leave one out"
    ))
}

/// Keys of the cases that a stream with this split takes, by the hashes of their image files.
fn keys_by_image<'a>(caches: &[&'a Cache], config: &StreamConfig, split: &Split) -> BTreeMap<&'a str, &'a str> {
    let Ok(selector) = Selector::new(&config.include, &config.exclude, split) else { return BTreeMap::new() };
    let selected = caches.iter().flat_map(|&cache| {
        let cases = select(cache, &selector, config.labels).unwrap_or_default();
        cases.into_iter().map(move |idx| &cache.cases()[idx])
    });
    let named = selected.map(|case| (case.record().source.image_blake3.as_str(), case.key()));
    named.filter(|(image, _)| !image.is_empty()).collect()
}

/// Indices of the selected cases of a cache, with `labels` only of labelled ones; at least one.
fn select(cache: &Cache, selector: &Selector, labels: bool) -> Result<Vec<usize>, Unsuitable> {
    if cache.cases().is_empty() {
        return Err(Unsuitable::Empty);
    }
    let names = names_of(cache, labels);
    let cases = selector.select(&names).map_err(Unsuitable::Select)?;
    if cases.is_empty() {
        let (_, of_datasets) = selector.num_of_datasets(&names);
        return Err(Unsuitable::NothingSelected { cases: names.len(), by_split: of_datasets > 0 });
    }
    Ok(cases)
}

/// Selects the cases of a cache that a stream uses; returns their indices and their preprocessing.
///
/// # Errors
/// If no case is selected, or if the cases do not suit the stream.
pub fn cases_of(cache: &Cache, config: &StreamConfig) -> Result<(Vec<usize>, PreprocessConfig), Error> {
    let selector = Selector::new(&config.include, &config.exclude, &config.split)?;
    let unsuitable = |reason| Error::Unsuitable { path: cache.dir().to_owned(), reason };
    let cases = select(cache, &selector, config.labels).map_err(unsuitable)?;
    let preprocess = check_cases(cache, &cases, config).map_err(unsuitable)?;
    Ok((cases, preprocess))
}

/// Digest of the cases that a stream of one cache uses; equals [`super::Loader::digest`] without starting threads.
///
/// # Errors
/// If no case is selected, or if the cases do not suit the stream.
pub fn digest_of(cache: &Arc<Cache>, config: &StreamConfig) -> Result<String, Error> {
    // The seed decides the order of the visits, which is not part of the digest.
    let (sequence, _) = Sequence::new(vec![(Arc::clone(cache), 1)], config, 0)?;
    Ok(sequence.digest())
}

/// Checks that the cases, at least one, are suitable for the stream; returns their preprocessing.
fn check_cases(cache: &Cache, cases: &[usize], config: &StreamConfig) -> Result<PreprocessConfig, Unsuitable> {
    let cases = || cases.iter().map(|&idx| &cache.cases()[idx]);
    let first = cases().next().ok_or(Unsuitable::Empty)?;
    let parameters = &first.record().parameters;
    if let Some(other) = cases().find(|case| case.record().parameters != *parameters) {
        return Err(Unsuitable::MixedParameters { first: first.key().to_owned(), other: other.key().to_owned() });
    }
    let preprocess: Result<PreprocessConfig, _> = serde_json::from_value(cache.manifest().preprocess.clone());
    let preprocess = preprocess.map_err(|err| Unsuitable::Manifest { reason: err.to_string() })?;
    // A conversion with other parameters writes its manifest last, and values do not say what they are.
    let expected = preprocess.normalize;
    if let Some(case) = cases().find(|case| Normalize::of_case(case.record()) != expected) {
        return Err(Unsuitable::OtherManifest { case: case.key().to_owned(), expected });
    }
    // All cases have the parameters of the first one.
    if !may_have(first.record(), &preprocess) {
        return Err(Unsuitable::OtherParameters { case: first.key().to_owned() });
    }
    if let Some(window) = config.window.filter(|_| !preprocess.normalize.is_hu()) {
        return Err(Unsuitable::WindowOfZscores { window });
    }
    let window = config.window.unwrap_or(preprocess.window);
    let inside = preprocess.window[0] <= window[0] && window[1] <= preprocess.window[1];
    if preprocess.store == Store::Window && !inside {
        return Err(Unsuitable::Window { stored: preprocess.window, window });
    }
    Ok(preprocess)
}
