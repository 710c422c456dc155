//! How tokens are chosen: by options, else as the model's makers say, else the likeliest.

use asynctls::model::{Range, SamplerSettings, SuggestedSampling, random_seed};
use clap::Args;
use std::fmt::Write;

/// The options.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling [default: what the model names; else the likeliest token]")]
pub struct SamplingOptions {
    /// 0 takes the likeliest token, 1 draws from the model's distribution
    #[arg(long, value_name = "T", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::Temperature))]
    temperature: Option<f32>,
    /// Draw among this many of the likeliest tokens; 0 sets no limit
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have this probability; 1 sets no limit
    #[arg(long, value_name = "P", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::TopP))]
    top_p: Option<f32>,
    /// Draw among tokens that have this share of the likeliest one's probability; 0 sets no limit
    #[arg(long, value_name = "P", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::MinP))]
    min_p: Option<f32>,
    /// Divide the logits of tokens that the prompt or the answer has; 1 changes nothing
    #[arg(long, value_name = "F", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::Repetition))]
    repetition_penalty: Option<f32>,
    /// The latest tokens that --repetition-penalty looks at; -1: all
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-1..=u32::MAX.into()))]
    repetition_window: Option<i64>,
    /// Lower the logits of tokens that the answer has by this
    #[arg(long, value_name = "F", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::Penalty))]
    presence_penalty: Option<f32>,
    /// Lower the logits of tokens by this for each time that the answer has them
    #[arg(long, value_name = "F", allow_negative_numbers = true,
        value_parser = |text: &str| float(text, Range::Penalty))]
    frequency_penalty: Option<f32>,
    /// The same seed gives the same draws; -1 takes a random one, which is printed [default: that of the session, else -1]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    seed: Option<Seed>,
}

#[derive(Clone, Copy, Debug)]
enum Seed {
    Random,
    Fixed(u64),
}

fn float(text: &str, range: Range) -> Result<f32, String> {
    let value = text.parse().ok().filter(|value: &f32| range.holds((*value).into()));
    value.ok_or_else(|| format!("it must be {}", range.name()))
}

fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed::Random);
    }
    let limit =
        || format!("it must be a whole number from 0 to {}, or -1 for a random one", u64::MAX);
    text.parse().map(Seed::Fixed).map_err(|_| limit())
}

impl SamplingOptions {
    /// The settings, when the model's makers suggest these and a session has this seed.
    pub fn settings(&self, suggested: &SuggestedSampling, session: Option<u64>) -> SamplerSettings {
        let own = suggested.settings();
        let mut settings = SamplerSettings {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_k: self.top_k.unwrap_or(own.top_k),
            top_p: self.top_p.unwrap_or(own.top_p),
            min_p: self.min_p.unwrap_or(own.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            repetition_window: match self.repetition_window {
                // The model's window belongs to the model's penalty.
                None if self.repetition_penalty.is_some() => None,
                None => own.repetition_window,
                Some(window) => usize::try_from(window).ok(),
            },
            presence_penalty: self.presence_penalty.unwrap_or(own.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(own.frequency_penalty),
            seed: 0,
        };
        if settings.draws() {
            settings.seed = match (self.seed, session) {
                (Some(Seed::Fixed(seed)), _) | (None, Some(seed)) => seed,
                (Some(Seed::Random), _) | (None, None) => random_seed(),
            };
        }
        settings
    }

    /// The seed that was given.
    #[cfg(feature = "server")]
    pub fn fixed_seed(&self) -> Option<u64> {
        match self.seed {
            Some(Seed::Fixed(seed)) => Some(seed),
            Some(Seed::Random) | None => None,
        }
    }

    /// How tokens are chosen, and who says so, in one line.
    pub fn line(&self, suggested: &SuggestedSampling, settings: &SamplerSettings) -> String {
        let mut line = String::from("sampling:");
        let mut add = |name: &str, value: String, ours: bool, theirs: bool| {
            let whose = if !ours && theirs { " (the model's)" } else { "" };
            let separator = if line.ends_with(':') { " " } else { ", " };
            let _ = write!(line, "{separator}{name} {value}{whose}");
        };
        let s = settings;
        let theirs = suggested;
        add(
            "temperature",
            s.temperature.to_string(),
            self.temperature.is_some(),
            theirs.temperature.is_some(),
        );
        if s.draws() {
            if s.top_k > 0 {
                add("top-k", s.top_k.to_string(), self.top_k.is_some(), theirs.top_k.is_some());
            }
            for (name, value, nothing, ours, theirs) in [
                ("top-p", s.top_p, 1.0, self.top_p, theirs.top_p),
                ("min-p", s.min_p, 0.0, self.min_p, theirs.min_p),
            ] {
                if value != nothing {
                    add(name, value.to_string(), ours.is_some(), theirs.is_some());
                }
            }
        }
        if s.repetition_penalty != 1.0 {
            let over = s.repetition_window.map(|window| format!(" over {window} tokens"));
            let value = format!("{}{}", s.repetition_penalty, over.unwrap_or_default());
            add("repetition penalty", value, self.repetition_penalty.is_some(), true);
        }
        for (name, value) in
            [("presence penalty", s.presence_penalty), ("frequency penalty", s.frequency_penalty)]
        {
            if value != 0.0 {
                add(name, value.to_string(), true, false);
            }
        }
        if s.draws() {
            add("seed", s.seed.to_string(), true, false);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, FromArgMatches, Parser};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: SamplingOptions,
    }

    fn options(line: &[&str]) -> Result<SamplingOptions, String> {
        let words = std::iter::once("x").chain(line.iter().copied());
        let matches = Line::command().try_get_matches_from(words).map_err(|e| e.to_string())?;
        Ok(Line::from_arg_matches(&matches).unwrap().options)
    }

    fn suggested() -> SuggestedSampling {
        SuggestedSampling {
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            repetition_penalty: Some(1.1),
            repetition_window: Some(64),
            ..SuggestedSampling::default()
        }
    }

    #[test]
    fn options_come_before_what_the_model_names_and_that_before_greedy() {
        let none = options(&[]).unwrap();
        assert_eq!(
            none.settings(&SuggestedSampling::default(), Some(9)),
            SamplerSettings::default()
        );
        let settings = none.settings(&suggested(), Some(9));
        assert_eq!((settings.temperature, settings.top_k, settings.seed), (0.6, 20, 9));
        assert_eq!(
            none.line(&suggested(), &settings),
            "sampling: temperature 0.6 (the model's), top-k 20 (the model's), top-p 0.95 (the model's), \
             repetition penalty 1.1 over 64 tokens (the model's), seed 9"
        );
        let given = options(&["--temperature", "0", "--repetition-penalty", "1.3"]).unwrap();
        let settings = given.settings(&suggested(), None);
        assert!(!settings.draws() && settings.penalises());
        assert_eq!((settings.repetition_penalty, settings.repetition_window), (1.3, None));
        assert_eq!(
            given.line(&suggested(), &settings),
            "sampling: temperature 0, repetition penalty 1.3"
        );
    }

    #[test]
    fn a_seed_is_random_unless_it_is_given_or_the_session_has_one() {
        let seed = |line: &[&str], session| {
            let warm = [&["--temperature", "1"], line].concat();
            options(&warm).unwrap().settings(&SuggestedSampling::default(), session).seed
        };
        assert_eq!((seed(&["--seed", "7"], Some(5)), seed(&[], Some(5))), (7, 5));
        for random in [&[][..], &["--seed", "-1"]] {
            let seeds: Vec<u64> = (0..4).map(|_| seed(random, None)).collect();
            assert!(seeds.iter().any(|one| *one != seeds[0]), "{seeds:?}");
            assert!(seeds.iter().all(|seed| *seed < 1 << 32), "{seeds:?}");
        }
        for bad in ["-2", "x", "1.5", "18446744073709551616"] {
            let error = options(&["--seed", bad]).unwrap_err();
            assert!(
                error.contains("from 0 to 18446744073709551615, or -1 for a random"),
                "{error}"
            );
        }
    }
}
