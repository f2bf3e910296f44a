//! Conjugate gradients on every adapter.

use crate::operators::FivePoint;
use crate::sparse::{exact_vector, matrix};
use crate::{adapters, data};
use macheps::random::Random;
use macheps::solve::conjugate_gradient::{CgOptions, Form, LinearSystem, conjugate_gradient};
use macheps::solve::{
    CsrOperator, IncompleteCholesky, JacobiPreconditioner, LinearOperator, Outcome, Preconditioner, Ssor,
};
use macheps::{Context, Csr};

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
            assert_eq!(report.outcome, Outcome::Converged);
        }
    }
}

fn preconditioners(a: &Csr<f64>) -> Vec<Option<Box<dyn Preconditioner>>> {
    let mut all: Vec<Option<Box<dyn Preconditioner>>> = vec![None];
    all.push(
        JacobiPreconditioner::new(a)
            .ok()
            .map(|m| Box::new(m) as Box<dyn Preconditioner>),
    );
    all.push(Ssor::new(a, 1.0).ok().map(|m| Box::new(m) as Box<dyn Preconditioner>));
    all.push(
        IncompleteCholesky::new(a)
            .ok()
            .map(|m| Box::new(m) as Box<dyn Preconditioner>),
    );
    all
}

/// A survey: every SPD matrix, every preconditioner.
#[test]
fn survey() {
    let Some(folder) = data::shared_data("survey") else {
        return;
    };
    let index = data::json(folder.join("matrices/index.json"));
    for entry in index["matrices"].as_array().expect("matrices") {
        if entry["spd"] != true {
            continue;
        }
        let name = entry["name"].as_str().expect("a name");
        if std::env::var("ONLY").is_ok_and(|only| !only.split(',').any(|o| name.contains(o))) {
            continue;
        }
        let a = matrix(&folder, entry);
        let n = a.rows();
        let b = exact_vector(n);
        let all = preconditioners(&a);
        let operator = CsrOperator::new(a).expect("square");
        for adapter in adapters::all("survey") {
            for (which, m) in all.iter().enumerate() {
                if which > 0 && m.is_none() {
                    println!("{name}: none of {which}");
                    continue;
                }
                let mut system = LinearSystem::new(&operator, &b);
                if let Some(m) = m {
                    system = system.with_preconditioner(m.as_ref());
                }
                for form in [Form::Standard, Form::SingleReduction] {
                    if which > 1 && form == Form::SingleReduction {
                        continue;
                    }
                    let host = conjugate_gradient(&Context::cpu(), &system, &options(form, 1e-6)).expect("CPU");
                    let got = conjugate_gradient(&adapter.context, &system, &options(form, 1e-6)).expect("solve");
                    println!(
                        "{name} n {n} {} {form:?} {}: {:?} {} its (host {} {:?}) true {:.1e} in {:.2} s",
                        m.as_ref().map_or("none", |m| m.name()),
                        adapter.name,
                        got.report.outcome,
                        got.report.iterations,
                        host.report.iterations,
                        host.report.outcome,
                        got.report.relative_residual,
                        got.report.seconds
                    );
                    if form == Form::Standard && which > 0 && !got.report.converged() {
                        let mut o = options(form, 1e-6);
                        o.refine = true;
                        let got = conjugate_gradient(&adapter.context, &system, &o).expect("solve");
                        println!(
                            "    refined: {:?} {} its {} refinements true {:.1e} in {:.2} s",
                            got.report.outcome,
                            got.report.iterations,
                            got.report.refinements,
                            got.report.relative_residual,
                            got.report.seconds
                        );
                    }
                }
            }
        }
    }
}
