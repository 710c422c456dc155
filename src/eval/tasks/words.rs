//! Names for what a task needs names for: an adjective and a noun, such as `quiet-river`.

use super::draws::Draws;

/// One of the names.
pub(super) fn name(draws: &mut Draws) -> String {
    join(draws.choose(&ADJECTIVES), draws.choose(&NOUNS))
}

/// Every name.
pub(super) fn names() -> Vec<String> {
    let with = |adjective| NOUNS.iter().map(move |noun| join(adjective, noun));
    ADJECTIVES.iter().flat_map(|adjective| with(*adjective)).collect()
}

fn join(adjective: &str, noun: &str) -> String {
    format!("{adjective}-{noun}")
}

const ADJECTIVES: [&str; 144] = [
    "amber", "ancient", "bitter", "blue", "bold", "brave", "brief", "bright", "brisk", "broad",
    "brown", "calm", "careful", "cheap", "clean", "clever", "cloudy", "cold", "crisp", "curly",
    "daily", "damp", "dark", "deep", "distant", "dizzy", "dull", "dusty", "eager", "early",
    "empty", "equal", "faint", "fair", "famous", "fancy", "fast", "fierce", "firm", "flat",
    "foggy", "fresh", "funny", "gentle", "giant", "glad", "golden", "grand", "gray", "great",
    "green", "happy", "harsh", "heavy", "hidden", "hollow", "honest", "huge", "humble", "icy",
    "idle", "jolly", "keen", "kind", "large", "late", "lazy", "light", "lively", "local", "lonely",
    "long", "loud", "lucky", "mellow", "mild", "modern", "narrow", "neat", "nervous", "noble",
    "noisy", "odd", "orange", "pale", "patient", "plain", "polite", "proud", "purple", "quick",
    "quiet", "rapid", "rare", "red", "rich", "rough", "round", "royal", "rusty", "sad", "scarlet",
    "secret", "shallow", "sharp", "shy", "silent", "silver", "simple", "slow", "small", "smooth",
    "soft", "solid", "sour", "spare", "steep", "strange", "strong", "sudden", "sweet", "swift",
    "tall", "tame", "tender", "thick", "thin", "tidy", "tiny", "tough", "urban", "vast", "violet",
    "warm", "weary", "wet", "white", "wide", "wild", "wise", "witty", "wooden", "yellow", "young",
];

const NOUNS: [&str; 137] = [
    "acorn", "anchor", "apple", "arrow", "basket", "beach", "bell", "bench", "bird", "blanket",
    "boat", "bottle", "bridge", "brush", "bucket", "butter", "button", "cabin", "camera", "candle",
    "canyon", "carpet", "castle", "chair", "cherry", "circle", "cliff", "clock", "cloud", "coat",
    "coin", "cottage", "crown", "curtain", "desert", "desk", "door", "dragon", "drum", "eagle",
    "engine", "falcon", "farm", "feather", "fence", "field", "flute", "forest", "fountain",
    "garden", "gate", "glove", "guitar", "hammer", "harbor", "hat", "helmet", "hill", "horse",
    "island", "jacket", "jungle", "kettle", "key", "kitchen", "ladder", "lake", "lamp", "lantern",
    "leaf", "lemon", "letter", "lion", "magnet", "maple", "marble", "meadow", "mirror", "monkey",
    "mountain", "napkin", "notebook", "ocean", "olive", "orchard", "oven", "owl", "paper",
    "parrot", "pebble", "pencil", "piano", "picture", "pillow", "pilot", "planet", "pocket",
    "potato", "pumpkin", "puzzle", "rabbit", "river", "rocket", "saddle", "school", "shell",
    "ship", "shirt", "silk", "spoon", "square", "stairs", "station", "stone", "storm", "summer",
    "table", "teapot", "temple", "ticket", "tiger", "tower", "train", "tunnel", "turtle",
    "umbrella", "valley", "village", "violin", "wagon", "wallet", "whale", "wheel", "window",
    "winter", "wolf", "zebra",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_part_of_another() {
        // A name is found in a text where its hyphen is, so only the ends can differ.
        for adjective in ADJECTIVES {
            let ends = ADJECTIVES.iter().filter(|other| other.ends_with(adjective)).count();
            assert_eq!(ends, 1, "{adjective}");
        }
        for noun in NOUNS {
            let begins = NOUNS.iter().filter(|other| other.starts_with(noun)).count();
            assert_eq!(begins, 1, "{noun}");
        }
    }

    #[test]
    fn words_are_plain() {
        for word in ADJECTIVES.iter().chain(&NOUNS) {
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase()), "{word}");
        }
    }
}
