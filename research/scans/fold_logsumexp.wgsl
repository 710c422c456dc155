// The block's score is log sum exp of its scaled logits, folded with one exponential a token.
struct Fold {
    largest: Logit,
    // Of exp(factor * (logit - largest)).
    sum: f32,
}

fn fold_none() -> Fold {
    return Fold(Logit(-0x3fffffff), 0.0);
}

fn fold_of(logit: Logit) -> Fold {
    return Fold(logit, 1.0);
}

fn combine(a: Fold, b: Fold, factor: f32) -> Fold {
    let shrink = exp(-factor * abs(f32(a.largest - b.largest)));
    let a_leads = a.largest >= b.largest;
    return Fold(max(a.largest, b.largest), select(a.sum * shrink + b.sum, a.sum + b.sum * shrink, a_leads));
}

fn fold_score(fold: Fold, factor: f32) -> f32 {
    return factor * f32(fold.largest) + log(fold.sum);
}
