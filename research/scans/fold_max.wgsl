// The block's score is its largest logit.
alias Fold = Logit;

fn fold_none() -> Fold {
    return Fold(-0x3fffffff);
}

fn fold_of(logit: Logit) -> Fold {
    return logit;
}

fn combine(a: Fold, b: Fold, factor: f32) -> Fold {
    return max(a, b);
}

fn fold_score(fold: Fold, factor: f32) -> f32 {
    return factor * f32(fold);
}
