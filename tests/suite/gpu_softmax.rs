//! Softmax family on every adapter.
use crate::adapters;

#[test]
fn verify_cases_hold() {
    for adapter in adapters::all("verify_cases_hold") {
        let start = std::time::Instant::now();
        let mut bad = Vec::new();
        let cases = macheps::verify::cases(None);
        for case in &cases {
            let report = macheps::verify::run(&adapter.context, case.as_ref());
            if !report.ok {
                bad.push(report);
            }
        }
        eprintln!(
            "{}: {} cases, {} bad, {:?}, {} pipelines",
            adapter.name,
            cases.len(),
            bad.len(),
            start.elapsed(),
            adapter.gpu().kernel_count()
        );
        for b in bad {
            eprintln!("  {b:?}");
        }
    }
}
