//! Conjugate gradients on every adapter.

use crate::adapters;
use crate::operators::FivePoint;
use macheps::solve::conjugate_gradient::{CgOptions, Form, LinearSystem, conjugate_gradient};
use macheps::solve::{LinearOperator, Outcome};
use macheps::{Context, random::Random};

fn right_hand_side(n: usize, seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..n).map(|_| random.normal()).collect()
}

fn options(form: Form, rtol: f64) -> CgOptions {
    let mut options = CgOptions::with_rtol(rtol);
    options.form = form;
    options
}

#[test]
fn user_written_operator() {
    let operator = FivePoint::new(40, 31);
    let b = right_hand_side(operator.size(), 1);
    let host = conjugate_gradient(
        &Context::cpu(),
        &LinearSystem::new(&operator, &b),
        &options(Form::Auto, 1e-6),
    )
    .expect("the CPU path");
    println!(
        "{:?}",
        host.report
            .residual_history
            .iter()
            .skip(94)
            .map(|v| format!("{v:.2e}"))
            .collect::<Vec<_>>()
    );
    for adapter in adapters::all("user_written_operator") {
        for form in [Form::Standard, Form::SingleReduction] {
            let solution = conjugate_gradient(
                &adapter.context,
                &LinearSystem::new(&operator, &b),
                &options(form, 1e-6),
            )
            .unwrap_or_else(|e| panic!("{}: {e}", adapter.name));
            let report = &solution.report;
            println!(
                "{} {form:?}: {:?} {} {:e} cond {:?} vs {} {:?}",
                adapter.name,
                report.outcome,
                report.iterations,
                report.relative_residual,
                report.condition_estimate,
                host.report.iterations,
                host.report.condition_estimate
            );
            println!(
                "{:?}",
                report
                    .residual_history
                    .iter()
                    .skip(94)
                    .map(|v| format!("{v:.2e}"))
                    .collect::<Vec<_>>()
            );
            assert_eq!(report.outcome, Outcome::Converged);
        }
    }
}
