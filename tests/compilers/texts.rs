//! The texts of kernels.

use asynctls::gpu::{Tier, assemble};
use asynctls::kernels::{Variant, variants};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A kernel to compile.
pub struct Text {
    /// Its file, which names the kernel.
    pub file: &'static str,
    pub wgsl: String,
    /// Whether bounds are checked and loops bounded.
    pub checked: bool,
}

/// Takes variants in which something is new.
#[derive(Default)]
struct Sample {
    seen: HashSet<String>,
}

impl Sample {
    fn takes(&mut self, variant: &Variant) -> bool {
        let file = variant.spec.file;
        let slots = variant.spec.slots.iter().map(|slot| format!("{file} {slot:?}"));
        let constants = variant.spec.constants.iter().map(|one| format!("{file} {one:?}"));
        let words = slots.chain(constants).chain([file.to_owned()]);
        words.filter(|word| self.seen.insert(word.clone())).count() > 0
    }
}

/// The texts of some tiers, each once: by kernel, in the order of their files.
pub fn texts(tiers: &[&str], all: bool, checks: bool) -> BTreeMap<&'static str, Arc<[Text]>> {
    let modes: &[(bool, bool)] = match (all, checks) {
        (false, _) => &[(false, false)],
        (true, false) => &[(false, false), (false, true)],
        (true, true) => &[(false, false), (false, true), (true, false)],
    };
    let mut seen = HashSet::new();
    let mut by_kernel = BTreeMap::<_, Vec<Text>>::new();
    for &(checked, reversed) in modes {
        let mut sample = Sample::default();
        for tier in tiers {
            let tier = Tier::named(tier).expect("a tier");
            let mut variants = variants(tier, reversed);
            variants.retain(|variant| all || sample.takes(variant));
            for Variant { spec, .. } in variants {
                let wgsl = assemble(&spec).unwrap_or_else(|e| panic!("{spec:?}: {e}")).text;
                if seen.insert((checked, wgsl.clone())) {
                    let text = Text { file: spec.file, wgsl, checked };
                    by_kernel.entry(spec.file).or_default().push(text);
                }
            }
        }
    }
    by_kernel.into_iter().map(|(file, texts)| (file, texts.into())).collect()
}
