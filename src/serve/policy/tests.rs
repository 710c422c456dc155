//! A simulated cache and requests that come, end, fail and are cancelled at random.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const BLOCK: u32 = 4;
const PATIENCE: u32 = 20;

/// What a request is, before it comes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    comes: u64,
    priority: i32,
    prompt: u32,
    answer: u32,
    /// Tokens of the prompt that all requests of its group begin with.
    shared: u32,
    group: u8,
    /// After so many steps nobody wants it any more.
    gone: Option<u64>,
}

#[derive(Clone, Debug)]
struct World {
    plans: Vec<Plan>,
    blocks: u32,
    sessions: usize,
    rows: usize,
    reserve: u32,
    hot: Option<u32>,
    /// The step that fails, with all that it works on.
    fails: u64,
}

fn world() -> impl Strategy<Value = World> {
    let plan = (0..60u64, -2..3i32, 1..40u32, 1..20u32, 0..30u32, 0..3u8, 0..6u64, 0..200u64);
    let plan = plan.prop_map(|(comes, priority, prompt, answer, shared, group, leaves, after)| {
        let gone = (leaves == 0).then_some(comes + after);
        let shared = shared.min(prompt - 1) / BLOCK * BLOCK;
        Plan { comes, priority, prompt, answer, shared, group, gone }
    });
    let hot = proptest::option::of(4..12u32);
    let all = (vec(plan, 1..40), 16..40u32, 1..8usize, 2..24usize, 0..24u32, hot, 0..400u64);
    all.prop_map(|(plans, blocks, sessions, rows, reserve, hot, fails)| World {
        plans,
        blocks,
        sessions,
        rows,
        reserve,
        hot,
        fails,
    })
}

#[derive(Clone, Copy, Debug)]
struct Request {
    plan: Plan,
    rank: Rank,
    made: u32,
    length: u32,
    /// Blocks of the group that it began with.
    begins: u32,
    moved: u64,
}

impl Request {
    fn left(&self) -> u32 {
        self.plan.prompt.saturating_sub(self.length)
    }

    fn known(&self) -> u32 {
        self.plan.prompt + self.made
    }

    fn reserved(&self, reserve: u32) -> u32 {
        let most = self.plan.prompt + self.plan.answer - 1;
        (self.plan.prompt + reserve).max(self.known()).min(most)
    }

    fn own_blocks(&self) -> u32 {
        self.length.div_ceil(BLOCK) - self.begins
    }
}

// Blocks of all, with what a group shares counted once.
fn held(running: &[Request]) -> u32 {
    let own: u32 = running.iter().map(Request::own_blocks).sum();
    let shared = |group: u8| {
        let members = running.iter().filter(|one| one.plan.group == group);
        members.map(|one| one.begins).max().unwrap_or(0)
    };
    own + (0..3).map(shared).sum::<u32>()
}

// What a request can take of those that run: whole blocks that one of its group holds.
fn found(request: &Request, running: &[Request]) -> u32 {
    let common = |one: &Request| one.plan.shared.min(request.plan.shared).min(one.length) / BLOCK;
    let group = running.iter().filter(|one| one.plan.group == request.plan.group);
    group.map(|one| common(one).min(one.begins)).max().unwrap_or(0)
}

// The first of a group that has computed what all begin with has it for the others.
fn share_beginnings(running: &mut [Request]) {
    for at in 0..running.len() {
        let Request { plan, length, .. } = running[at];
        let is_first = running.iter().all(|one| one.plan.group != plan.group || one.begins == 0);
        if is_first && length >= plan.shared {
            running[at].begins = plan.shared / BLOCK;
        }
    }
}

// Whether another reads what it begins with.
fn is_read(request: &Request, running: &[Request]) -> bool {
    let reads = |one: &&Request| one.left() > 0 && one.plan.group == request.plan.group;
    let later = |one: &Request| one.plan.shared.min(request.plan.shared) / BLOCK;
    running.iter().filter(reads).map(later).max().unwrap_or(0) > found(request, running)
}

// Up to 12 tokens are attended densely.
fn hot_of(one: &Request) -> (bool, u32) {
    if one.length < 12 { (false, one.length / BLOCK) } else { (true, 1 + one.length / 12) }
}

fn snapshot(running: &[Request], reserve: u32) -> Vec<Running> {
    let of = |one: &Request| Running {
        rank: one.rank,
        priority: one.plan.priority,
        length: one.length,
        prompt: one.left(),
        decode: (one.known() - one.length).saturating_sub(one.left()),
        hot: hot_of(one),
        needs: one.reserved(reserve).div_ceil(BLOCK) - one.length.div_ceil(BLOCK),
        alone: one.own_blocks(),
        moved: one.moved,
    };
    running.iter().map(of).collect()
}

fn chunk(length: u32) -> usize {
    (16usize).saturating_sub(length as usize / 8).max(3)
}

impl World {
    fn limits(&self) -> Limits<'static> {
        Limits {
            running: self.sessions,
            rows: self.rows.max(if self.sessions > 1 { 2 } else { 1 }),
            decoding: self.sessions + 2,
            hot: self.hot,
            chunk: &chunk,
            patience: PATIENCE,
        }
    }

    // How many were answered, failed and went away.
    fn run(&self) -> [usize; 3] {
        let mut to_come = self.plans.clone();
        to_come.sort_by_key(|plan| plan.comes);
        to_come.reverse();
        let (mut waiting, mut running): (Vec<Request>, Vec<Request>) = (Vec::new(), Vec::new());
        let (mut steps, mut number) = (0, 0);
        let [mut answered, mut failed, mut gone] = [0; 3];
        while !(to_come.is_empty() && waiting.is_empty() && running.is_empty()) {
            while to_come.last().is_some_and(|plan| plan.comes <= steps) {
                let plan = to_come.pop().expect("just seen");
                let rank = Rank::new(number, steps, plan.priority, PATIENCE);
                number += 1;
                waiting.push(Request { plan, rank, made: 0, length: 0, begins: 0, moved: steps });
            }
            let before = waiting.len() + running.len();
            let stays = |one: &Request| one.plan.gone.is_none_or(|gone| gone > steps);
            waiting.retain(stays);
            running.retain(stays);
            gone += before - waiting.len() - running.len();
            self.admit(&mut waiting, &mut running, steps);
            if running.is_empty() {
                assert!(waiting.is_empty(), "nothing runs, and {waiting:?} wait");
                steps += 1;
                continue;
            }
            let shares = self.plan(&mut waiting, &mut running);
            steps += 1;
            assert!(steps < 20_000, "it does not end");
            if steps == self.fails {
                let hit = |one: &Request| shares.iter().any(|s| s.number == one.rank.number());
                failed += running.iter().filter(|one| hit(one)).count();
                running.retain(|one| !hit(one));
                continue;
            }
            for share in &shares {
                let of = |one: &&mut Request| one.rank.number() == share.number;
                let one = running.iter_mut().find(of).expect("it runs");
                one.length += share.tokens as u32;
                one.moved = steps;
                one.made += u32::from(one.length == one.known());
            }
            share_beginnings(&mut running);
            assert!(held(&running) <= self.blocks, "more blocks than there are");
            let before = running.len();
            running.retain(|one| one.made < one.plan.answer);
            answered += before - running.len();
        }
        [answered, failed, gone]
    }

    fn admit(&self, waiting: &mut Vec<Request>, running: &mut Vec<Request>, steps: u64) {
        loop {
            let places = waiting.iter();
            let places: Vec<Waiting> =
                places.map(|one| Waiting { rank: one.rank, priority: one.plan.priority }).collect();
            let needs_of = |one: &Request| {
                if is_read(one, running) {
                    return Needs::Another;
                }
                Needs::Blocks(one.reserved(self.reserve).div_ceil(BLOCK) - found(one, running))
            };
            let mut needs = |number: u64| {
                needs_of(waiting.iter().find(|one| one.rank.number() == number).expect("it waits"))
            };
            let now = snapshot(running, self.reserve);
            let available = self.blocks - held(running);
            let change = admission(&places, &now, available, &self.limits(), &mut needs);
            match change {
                None => return,
                Some(Change::Admit(number)) => {
                    let at = waiting.iter().position(|one| one.rank.number() == number).unwrap();
                    let mut one = waiting[at];
                    let mut before = waiting.iter().filter(|other| other.rank < one.rank);
                    assert!(before.all(|other| needs_of(other) == Needs::Another), "out of turn");
                    waiting.remove(at);
                    one.begins = found(&one, running);
                    one.length = one.begins * BLOCK;
                    one.moved = steps;
                    running.push(one);
                    assert!(running.len() <= self.sessions, "more sessions than there are");
                }
                Some(Change::Preempt(number)) => {
                    let first = waiting.iter().map(|one| one.rank).min().expect("one waits");
                    let victim = preempt(number, waiting, running);
                    assert!(victim > first, "the first was preempted");
                }
            }
        }
    }

    fn plan(&self, waiting: &mut Vec<Request>, running: &mut Vec<Request>) -> Vec<Share> {
        loop {
            let now = snapshot(running, self.reserve);
            let shares = step(&now, &self.limits());
            self.check(&shares, running);
            let needed = |share: &Share| {
                let one = running.iter().find(|one| one.rank.number() == share.number).unwrap();
                let after = one.length + share.tokens as u32;
                after.div_ceil(BLOCK) - one.length.div_ceil(BLOCK)
            };
            if held(running) + shares.iter().map(needed).sum::<u32>() <= self.blocks {
                return shares;
            }
            let number = outgrown(&now).expect("one alone fits");
            let first = running.iter().map(|one| one.rank).min();
            let victim = preempt(number, waiting, running);
            assert!(Some(victim) > first, "the first was preempted");
        }
    }

    fn check(&self, shares: &[Share], running: &[Request]) {
        let limits = self.limits();
        assert!(!shares.is_empty(), "a step without work");
        let of = |share: &Share| *running.iter().find(|r| r.rank.number() == share.number).unwrap();
        let sum = |is_prompt: bool| -> usize {
            shares.iter().filter(|s| s.is_prompt == is_prompt).map(|s| s.tokens).sum()
        };
        let read = shares.iter().filter(|share| share.is_prompt);
        let most = read.map(|share| chunk(of(share).length)).min().unwrap_or(0);
        assert!(sum(true) <= most, "too long a piece of prompts: {shares:?}");
        assert!(sum(false) <= limits.decoding && sum(true) + sum(false) <= limits.rows);
        let decoding =
            || shares.iter().filter(|share| !share.is_prompt).map(|share| hot_of(&of(share)));
        let dense: Vec<u32> = decoding().filter(|hot| !hot.0).map(|hot| hot.1).collect();
        let kept: Vec<u32> = decoding().filter(|hot| hot.0).map(|hot| hot.1).collect();
        let most = kept.iter().max().unwrap_or(&0) * kept.len() as u32;
        let hot = limits.hot.unwrap_or(u32::MAX);
        assert!(dense.len() < 2 || dense.iter().sum::<u32>() <= hot, "{dense:?} in {hot}");
        assert!(kept.len() < 2 || most <= hot, "{kept:?} in {hot}");
        for share in shares {
            let one = of(share);
            let left = if share.is_prompt { one.left() } else { one.known() - one.length };
            assert!((1..=left as usize).contains(&share.tokens), "{share:?} of {one:?}");
            assert_eq!(share.is_prompt, one.left() > 0);
            assert_eq!(shares.iter().filter(|other| other.number == share.number).count(), 1);
        }
    }
}

fn preempt(number: u64, waiting: &mut Vec<Request>, running: &mut Vec<Request>) -> Rank {
    let at = running.iter().position(|one| one.rank.number() == number).unwrap();
    let mut one = running.remove(at);
    (one.length, one.begins) = (0, 0);
    waiting.push(one);
    one.rank
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn all_end_within_the_limits(world in world()) {
        let ends = world.run();
        prop_assert_eq!(ends.iter().sum::<usize>(), world.plans.len());
        if world.plans.iter().all(|plan| plan.gone.is_none()) && world.fails == 0 {
            prop_assert_eq!(ends[0], world.plans.len());
        }
    }
}

fn rank(number: u64, steps: u64, priority: i32) -> Rank {
    Rank::new(number, steps, priority, PATIENCE)
}

// One that decodes, with 10 blocks.
fn decodes(number: u64, steps: u64, priority: i32) -> Running {
    let rank = rank(number, steps, priority);
    let (needs, alone, decode, hot) = (0, 10, 1, (true, 2));
    Running { rank, priority, length: 40, prompt: 0, decode, hot, needs, alone, moved: steps }
}

fn waits(number: u64, steps: u64, priority: i32) -> Waiting {
    Waiting { rank: rank(number, steps, priority), priority }
}

#[test]
fn the_lowest_priority_then_the_youngest_makes_room() {
    let limits =
        Limits { running: 8, rows: 32, decoding: 8, hot: None, chunk: &chunk, patience: PATIENCE };
    let running = [decodes(0, 0, 0), decodes(1, 1, -1), decodes(2, 2, -1), decodes(3, 3, 1)];
    let next = |waiting: &[Waiting], needed: u32| {
        admission(waiting, &running, 5, &limits, &mut |_| Needs::Blocks(needed))
    };
    // There is room; there is with one victim or two; there is not, so nobody is preempted in vain.
    assert_eq!(next(&[waits(4, 4, 0)], 5), Some(Change::Admit(4)));
    assert_eq!(next(&[waits(4, 4, 0)], 15), Some(Change::Preempt(2)));
    assert_eq!(next(&[waits(4, 4, 0)], 25), Some(Change::Preempt(2)));
    assert_eq!(next(&[waits(4, 4, 0)], 26), None);
    // Of the same priority nobody makes room, and the next in line does not go before one that needs more.
    assert_eq!(next(&[waits(4, 4, -1)], 15), None);
    assert_eq!(outgrown(&running), Some(2));
    assert_eq!(outgrown(&running[..1]), None);
}

#[test]
fn what_a_request_needs_is_not_asked_where_nothing_can_begin() {
    let limits =
        Limits { running: 2, rows: 32, decoding: 8, hot: None, chunk: &chunk, patience: PATIENCE };
    let running = [decodes(0, 0, 0), decodes(1, 0, 1)];
    let asked = |waiting: &[Waiting]| {
        let mut count = 0;
        let mut needs = |_| {
            count += 1;
            Needs::Blocks(1)
        };
        (admission(waiting, &running, 100, &limits, &mut needs), count)
    };
    // None is of a higher priority than one that runs and came later.
    assert_eq!(asked(&[waits(2, 0, 0), waits(3, 1, 0)]), (None, 0));
    assert_eq!(asked(&[waits(2, 0, 0), waits(3, 1, 1)]), (Some(Change::Preempt(0)), 1));
}

#[test]
fn waiting_makes_up_for_priority() {
    assert!(rank(1, 10, 1) < rank(0, 0, 0));
    assert!(rank(0, 0, 0) < rank(1, 21, 1));
    assert!(rank(0, 5, 0) < rank(1, 5, 0));
}

#[test]
fn one_that_is_held_back_holds_nobody_up() {
    let limits =
        Limits { running: 8, rows: 32, decoding: 8, hot: None, chunk: &chunk, patience: PATIENCE };
    let mut needs = |number: u64| if number == 1 { Needs::Another } else { Needs::Blocks(3) };
    let waiting = [waits(2, 1, 0), waits(1, 0, 0)];
    let change = admission(&waiting, &[decodes(0, 0, 0)], 3, &limits, &mut needs);
    assert_eq!(change, Some(Change::Admit(2)));
}

// What of a prompt a step takes: its rows, as pieces may have more.
const PIECE: u32 = 12;

fn reading(number: u64, came: u64, left: u32) -> Running {
    Running { prompt: left, length: 0, ..decodes(number, came, 0) }
}

fn read_by(running: &[Running]) -> Vec<Share> {
    let (rows, patience) = (PIECE as usize, PATIENCE);
    step(running, &Limits { running: 8, rows, decoding: 8, hot: None, chunk: &chunk, patience })
}

#[test]
fn prompts_take_what_decoding_leaves_the_shortest_first() {
    // The third began anew, with 3 tokens that it had.
    let again = Running { decode: 3, ..decodes(2, 0, 0) };
    let running = [decodes(0, 0, 0), reading(1, 0, 30), again, reading(3, 0, 4)];
    let share = |number, tokens, is_prompt| Share { number, tokens, is_prompt };
    let expected = [share(0, 1, false), share(2, 3, false), share(3, 4, true), share(1, 4, true)];
    assert_eq!(read_by(&running), expected);
}

// Reads prompts, each with its tokens and the step at which it comes, and says after which step each was done.
fn done_after(prompts: &[(u64, u32)]) -> Vec<u64> {
    let mut left: Vec<u32> = prompts.iter().map(|prompt| prompt.1).collect();
    let mut done = vec![0; prompts.len()];
    for now in 0.. {
        let here = |i: &usize| prompts[*i].0 <= now && left[*i] > 0;
        let running: Vec<Running> = (0..prompts.len())
            .filter(here)
            .map(|i| reading(i as u64, prompts[i].0, left[i]))
            .collect();
        for share in read_by(&running) {
            let i = share.number as usize;
            left[i] -= share.tokens as u32;
            done[i] = now + 1;
        }
        if left.iter().all(|&left| left == 0) {
            return done;
        }
    }
    unreachable!("all are read in the end")
}

#[test]
fn equal_prompts_are_read_one_after_the_other() {
    let done = done_after(&[(0, 3 * PIECE); 4]);
    assert!(done.windows(2).all(|pair| pair[0] + 2 <= pair[1]), "{done:?}");
}

#[test]
fn a_long_prompt_waits_for_short_ones_no_longer_than_it_takes_itself() {
    let (long, short) = (50, 1);
    // One comes in each step, for longer than anyone should wait.
    let mut prompts = vec![(0, long * PIECE)];
    prompts.extend((1..400).map(|comes| (comes, short * PIECE)));
    let done = done_after(&prompts);
    assert_eq!(done[1], 2, "a short one goes before what is left of the long one");
    assert!(done[0] <= 2 * u64::from(long), "{}", done[0]);
}
