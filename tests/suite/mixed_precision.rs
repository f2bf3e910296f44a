//! Mixed precision on the CPU path: the scaler's dynamics, unscaling, and optimizers against the oracle.

use macheps::ops::optimizer::cases as optimizer_cases;
use macheps::ops::unscale::cases::{self, Case, Fill};
use macheps::ops::unscale::unscale_checked;
use macheps::{
    AdamWOptions, Context, DType, Element, Error, Gradient, HostAdamW, HostLossScaler, HostSgd, LossScalerOptions,
    SgdOptions, bf16, f16, unscale,
};

/// The additions of `step` to `from` after which a type's own arithmetic stands still, and what it has come to.
fn naive<T: Element>(from: f32, step: f32, additions: usize) -> (usize, f32) {
    let mut sum = T::from_f32(from);
    for i in 0..additions {
        let next = T::from_f32(sum.to_f32() + step);
        if next == sum {
            return (i, sum.to_f32());
        }
        sum = next;
    }
    (additions, sum.to_f32())
}

#[test]
fn sixteen_bits_stall_and_master_weights_do_not() {
    // Above 4 a unit of f16 is 2^-8: half of it is more than 0.001. In bf16 that comes at 0.5, whose unit is 2^-8 too.
    let (f16_steps, f16_end) = naive::<f16>(0.0, 0.001, 20_000);
    let (bf16_steps, bf16_end) = naive::<bf16>(0.0, 0.001, 20_000);
    assert_eq!((f16_end, bf16_end), (4.0, 0.5));
    assert!(f16_steps < 20_000 && bf16_steps < 20_000);
    eprintln!("f16 stalls at {f16_end} after {f16_steps} additions of 0.001, bf16 at {bf16_end} after {bf16_steps}");

    fn train<T: Element>(steps: usize) -> (f32, f32) {
        let mut sgd = HostSgd::new(SgdOptions {
            learning_rate: 1.0,
            ..Default::default()
        })
        .unwrap();
        let (mut w, mut copy) = ([0f32], [T::default()]);
        let scale = 1024.0f32;
        for _ in 0..steps {
            sgd.begin(false);
            let g = [T::from_f32(-0.001 * scale)];
            sgd.step(&mut w, &g, f64::from(1.0 / scale), &mut [], &mut copy)
                .unwrap();
        }
        (w[0], copy[0].to_f32())
    }
    // A gradient of 16 bits is off by a unit of its own, the sum by what f32 additions lose.
    let steps = 6000;
    let (w, copy) = train::<f16>(steps);
    assert!((w - 6.0).abs() < 6.0 * 2f32.powi(-11), "{w}");
    assert_eq!(copy, f16::from_f32(w).to_f32());
    let (w, copy) = train::<bf16>(steps);
    assert!((w - 6.0).abs() < 6.0 * 2f32.powi(-8), "{w}");
    assert_eq!(copy, bf16::from_f32(w).to_f32());
}

/// A state machine of its own, written from PyTorch's description.
pub struct Machine {
    pub scale: f32,
    pub tracker: u32,
    pub skipped: u32,
    pub steps: u32,
    options: LossScalerOptions,
}

impl Machine {
    pub fn new(options: LossScalerOptions) -> Machine {
        Machine {
            scale: options.initial_scale,
            tracker: 0,
            skipped: 0,
            steps: 0,
            options,
        }
    }

    pub fn step(&mut self, bad: bool) {
        let o = &self.options;
        if bad {
            self.scale *= o.backoff_factor;
            if self.scale < o.min_scale {
                self.scale = o.min_scale;
            }
            self.tracker = 0;
            self.skipped += 1;
        } else {
            self.steps += 1;
            self.tracker += 1;
            if self.tracker == o.growth_interval {
                if self.scale * o.growth_factor <= o.max_scale {
                    self.scale *= o.growth_factor;
                }
                self.tracker = 0;
            }
        }
    }
}

/// Which of many simulated steps are bad: seldom, then in bursts, then never.
pub fn bad_steps(count: usize) -> Vec<bool> {
    let mut random = macheps::random::Random::new(2018);
    (0..count)
        .map(|i| match i * 4 / count {
            0 => random.below(40) == 0,
            1 => random.below(40) == 0 || i % 500 < 160,
            2 => false,
            _ => random.below(3) == 0,
        })
        .collect()
}

/// Options whose scale goes to both ends of its range within 10,000 steps.
pub fn dynamics() -> Vec<LossScalerOptions> {
    vec![
        LossScalerOptions {
            growth_interval: 20,
            ..Default::default()
        },
        LossScalerOptions {
            growth_interval: 7,
            growth_factor: 1.7,
            backoff_factor: 0.3,
            initial_scale: 1000.0,
            min_scale: 1e-3,
            max_scale: 1e30,
        },
    ]
}

#[test]
fn the_scale_moves_as_the_state_machine() {
    for options in dynamics() {
        let mut scaler = HostLossScaler::new(options).unwrap();
        let mut machine = Machine::new(options);
        for bad in bad_steps(10_000) {
            let mut g = [1.0f32, if bad { f32::INFINITY } else { 2.0 }];
            scaler.measure(&[Gradient::from(&mut g[..])], None).unwrap();
            scaler.update();
            machine.step(bad);
            assert_eq!(scaler.state().scale.to_bits(), machine.scale.to_bits());
            assert_eq!(scaler.state().growth_tracker, machine.tracker);
        }
        assert_eq!(
            (scaler.state().steps, scaler.state().skipped),
            (machine.steps, machine.skipped)
        );
    }
}

#[test]
fn every_case_of_the_cpu_path() {
    let context = Context::cpu();
    for case in cases::verify_cases() {
        case.run(&context).unwrap().unwrap_or_else(|m| panic!("{case:?}: {m}"));
    }
    for case in optimizer_cases::verify_cases() {
        case.run(&context).unwrap().unwrap_or_else(|m| panic!("{case:?}: {m}"));
    }
}

#[test]
fn long_tensors_go_over_threads_with_the_same_bits() {
    let case = Case {
        fill: Fill::Spread,
        ..Case::new(DType::F32, &[300_000])
    };
    let data = case.data::<f32>();
    let norms: Vec<u32> = (0..3)
        .map(|_| {
            let mut copy = data[0].clone();
            let report = unscale(&Context::cpu(), &mut [Gradient::from(&mut copy)], 8.0, None).unwrap();
            report.norm.to_bits()
        })
        .collect();
    assert_eq!(norms, vec![norms[0]; 3]);
    case.run(&Context::cpu()).unwrap().unwrap();
}

#[test]
fn storage_types_mix_and_checks_pass() {
    let (mut a, mut b, mut c) = (vec![3.0f32, 0.0], vec![f16::from_f32(-4.0)], vec![bf16::from_f32(12.0)]);
    let mut all = [Gradient::from(&mut a), Gradient::from(&mut b), Gradient::from(&mut c)];
    let report = unscale_checked(&Context::cpu(), &mut all, 2.0, None).unwrap();
    assert_eq!((report.norm, report.found_nonfinite, report.clip), (6.5, false, 1.0));
    assert_eq!((a[0], b[0].to_f32(), c[0].to_f32()), (1.5, -2.0, 6.0));
}

#[test]
fn a_bad_step_changes_nothing_on_the_cpu_path() {
    let mut adamw = HostAdamW::new(AdamWOptions::default()).unwrap();
    let (mut w, mut m, mut v) = ([1.0f32, 2.0], [0.5f32, 0.25], [0.125f32, 1.0]);
    let mut copy = [f16::from_f32(7.0); 2];
    adamw.begin(true);
    adamw
        .step(&mut w, &[f32::NAN, 1.0], 1.0, (&mut m, &mut v), &mut copy)
        .unwrap();
    assert_eq!((w, m, v), ([1.0, 2.0], [0.5, 0.25], [0.125, 1.0]));
    assert_eq!((copy[0].to_f32(), adamw.steps()), (7.0, 0));
}

#[test]
fn options_and_lengths_are_checked() {
    let bad = |options: LossScalerOptions| {
        assert!(
            matches!(HostLossScaler::new(options), Err(Error::Option { .. })),
            "{options:?}"
        );
    };
    let good = LossScalerOptions::default();
    for initial_scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        bad(LossScalerOptions { initial_scale, ..good });
    }
    bad(LossScalerOptions {
        growth_factor: 0.5,
        ..good
    });
    bad(LossScalerOptions {
        backoff_factor: 0.0,
        ..good
    });
    bad(LossScalerOptions {
        growth_interval: 0,
        ..good
    });
    bad(LossScalerOptions { max_scale: 1.0, ..good });
    let mut g = vec![1.0f32];
    for (scale, max_norm) in [(0.0, None), (f32::NAN, None), (1.0, Some(0.0)), (1.0, Some(f32::NAN))] {
        let outcome = unscale(&Context::cpu(), &mut [Gradient::from(&mut g)], scale, max_norm);
        assert!(matches!(outcome, Err(Error::Option { .. })), "{scale} {max_norm:?}");
    }
    assert_eq!(g, [1.0]);
    let nesterov = SgdOptions {
        nesterov: true,
        ..Default::default()
    };
    assert!(matches!(HostSgd::new(nesterov), Err(Error::Option { .. })));
    assert!(
        HostAdamW::new(AdamWOptions {
            beta2: 1.0,
            ..Default::default()
        })
        .is_err()
    );
    let sgd = HostSgd::new(SgdOptions::default()).unwrap();
    let short = sgd.step(&mut [1.0, 2.0], &[1.0f32], 1.0, &mut [], &mut [] as &mut [f16]);
    assert!(matches!(short, Err(Error::Shape { .. })));
}
