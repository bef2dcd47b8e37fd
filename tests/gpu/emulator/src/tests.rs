//! Kernels and single instructions on the machine.

mod instructions;
mod threads;

use crate::kernel::Module;
use crate::machine::{Launch, run};
use crate::{memory, parse};

const HEAD: &str = ".version 8.7\n.target sm_90a\n.address_size 64\n";
const REGISTERS: &str = ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<20>, %f<9>; .reg .b64 %rd<20>, %fd<9>;";

/// Runs a kernel `k` over buffers; returns them as it leaves them.
fn launched(body: &str, params: &str, [cubes, threads]: [u32; 2], buffers: &[&[u32]]) -> Result<Vec<Vec<u32>>, String> {
    let module = parse::module(&format!("{HEAD}.visible .entry k({params})\n{{\n{REGISTERS}\n{body}\n}}"))?;
    launched_of(&module, [cubes, threads], buffers)
}

/// Runs the kernel `k` of a module over buffers; returns them as it leaves them.
fn launched_of(module: &Module, [cubes, threads]: [u32; 2], buffers: &[&[u32]]) -> Result<Vec<Vec<u32>>, String> {
    let starts: Vec<u64> =
        buffers.iter().map(|values| memory::allocate(values.len() * 4, u64::MAX / 2).unwrap()).collect();
    let mut values = Vec::new();
    for (&start, buffer) in starts.iter().zip(buffers) {
        unsafe { (start as *mut u32).copy_from(buffer.as_ptr(), buffer.len()) };
        values.extend(start.to_le_bytes());
    }
    let ranges = memory::ranges();
    let kernel = &module.kernels["k"];
    let grid = [cubes, 1, 1];
    let result = run(&Launch { kernel, grid, block: [threads, 1, 1], dynamic_bytes: 0, params: &values, ranges });
    let left = starts
        .iter()
        .zip(buffers)
        .map(|(&start, buffer)| {
            let left = unsafe { std::slice::from_raw_parts(start as *const u32, buffer.len()) }.to_vec();
            assert!(memory::free(start));
            left
        })
        .collect();
    result.map(|()| left)
}

const ONE: &str = ".param .u64 .ptr .global .align 16 p0";

/// The address of this thread's value of the buffer `p0` in `%rd3`, its index in `%r4`.
const OWN: &str = "
    ld.param.b64 %rd1, [p0];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %rd2, %r4, 4;
    add.s64 %rd3, %rd1, %rd2;
";

#[test]
fn threads_that_diverge_meet_again() {
    // Each thread counts down from its index, then all vote.
    let body = format!(
        "{OWN}
        mov.b32 %r5, 0;
        mov.b32 %r6, %r4;
    $LOOP:
        setp.eq.s32 %p1, %r6, 0;
        @%p1 bra $DONE;
        add.s32 %r5, %r5, %r6;
        add.s32 %r6, %r6, -1;
        bra.uni $LOOP;
    $DONE:
        vote.sync.ballot.b32 %r7, %p1, -1;
        setp.ne.s32 %p2, %r7, -1;
        @%p2 mov.b32 %r5, -7;
        st.global.b32 [%rd3], %r5;
        ret;"
    );
    let left = launched(&body, ONE, [2, 32], &[&[0; 64]]).unwrap();
    let expected: Vec<u32> = (0..64).map(|n| n * (n + 1) / 2).collect();
    assert_eq!(left[0], expected);
}

#[test]
fn shuffles_sum_a_warp() {
    let step = |step: u32| format!("shfl.sync.bfly.b32 %r6, %r5, {step}, 31, -1;\nadd.f32 %r5, %r5, %r6;");
    let steps = [16, 8, 4, 2, 1].map(step).join("\n");
    let body = format!("{OWN}\nld.global.nc.b32 %r5, [%rd3];\n{steps}\nst.global.b32 [%rd3], %r5;\nret;");
    let values: Vec<u32> = (0..32).map(|n| (n as f32).to_bits()).collect();
    let left = launched(&body, ONE, [1, 32], &[&values]).unwrap();
    assert_eq!(left[0], vec![496f32.to_bits(); 32]);
}

#[test]
fn warps_exchange_values_through_shared_memory() {
    let body = format!(
        ".shared .align 4 .b8 tile[256];
        {OWN}
        mul.wide.u32 %rd4, %r3, 4;
        mov.b64 %rd5, tile;
        add.s64 %rd6, %rd5, %rd4;
        st.shared.b32 [%rd6], %r4;
        bar.sync 0;
        sub.s64 %rd7, %rd5, %rd4;
        ld.shared.b32 %r5, [%rd7+252];
        st.global.b32 [%rd3], %r5;
        ret;"
    );
    let left = launched(&body, ONE, [2, 64], &[&[0; 128]]).unwrap();
    let expected: Vec<u32> = (0..64).rev().chain((64..128).rev()).collect();
    assert_eq!(left[0], expected);
}

#[test]
fn numbers_are_converted_and_packed() {
    let body = format!(
        "{OWN}
        cvt.rn.f32.u32 %f1, %r4;
        fma.rn.f32 %f2, %f1, 0f3F800080, 0f3F000000;
        cvt.rn.bf16x2.f32 %r5, %f2, %f1;
        mov.b32 {{%rs1, %rs2}}, %r5;
        cvt.f32.bf16 %f3, %rs2;
        cvt.rzi.s32.f32 %r6, %f3;
        prmt.b32 %r7, %r5, %r6, 0x5410U;
        st.global.b32 [%rd3], %r7;
        ret;"
    );
    let left = launched(&body, ONE, [1, 4], &[&[0; 4]]).unwrap();
    let expected: Vec<u32> = (0u32..4)
        .map(|n| {
            let f = (n as f32).mul_add(f32::from_bits(0x3F80_0080), 0.5);
            let [low, high] = [n as f32, f].map(half::bf16::from_f32);
            (high.to_f32() as u32) << 16 | u32::from(low.to_bits())
        })
        .collect();
    assert_eq!(left[0], expected);
}

#[test]
fn an_access_outside_of_all_memory_is_a_fault() {
    let body = format!("{OWN}\nst.global.b32 [%rd3+16], %r4;\nret;");
    let reason = launched(&body, ONE, [1, 4], &[&[0; 4]]).unwrap_err();
    assert!(reason.starts_with("k: st.global.b32 at instruction 7, warp 0 of cube [0, 0, 0]: thread 0"), "{reason}");
    assert!(reason.contains("in no allocation"), "{reason}");
    let body = format!("{OWN}\nld.global.v2.b32 {{%r5, %r6}}, [%rd3];\nret;");
    let reason = launched(&body, ONE, [1, 2], &[&[0; 4]]).unwrap_err();
    assert!(reason.contains("is not aligned to 8 bytes"), "{reason}");
}

#[test]
fn threads_that_wait_at_different_instructions_are_a_fault() {
    let body = format!(
        "{OWN}
        setp.lt.u32 %p1, %r4, 16;
        @%p1 bra $HALF;
        shfl.sync.idx.b32 %r5, %r4, 0, 31, -1;
    $HALF:
        shfl.sync.idx.b32 %r5, %r4, 1, 31, -1;
        ret;"
    );
    let reason = launched(&body, ONE, [1, 32], &[&[0; 32]]).unwrap_err();
    assert!(reason.contains("that never come"), "{reason}");
}

#[test]
fn results_are_rounded_in_the_direction_of_the_instruction() {
    let check = |instruction: &str, [a, b, c]: [f32; 3], expected: f32| {
        let [a, b, c] = [a, b, c].map(|x| format!("0f{:08X}", x.to_bits()));
        let body = format!("{OWN}\n{instruction} %f1, {a}, {b}, {c};\nst.global.b32 [%rd3], %f1;\nret;");
        let left = launched(&body, ONE, [1, 1], &[&[0]]).unwrap();
        assert_eq!(left[0][0], expected.to_bits(), "{instruction}");
    };
    let small = f32::EPSILON / 4.0;
    check("fma.rm.f32", [1.0, 1.0, small], 1.0);
    check("fma.rp.f32", [1.0, 1.0, small], 1.0f32.next_up());
    check("fma.rm.f32", [-1.0, 1.0, -small], (-1.0f32).next_down());
    check("fma.rz.f32", [-1.0, 1.0, -small], -1.0);
    check("fma.rn.f32", [1.0, 1.0, small], 1.0);
}

#[test]
fn threads_that_leave_a_loop_early_wait_behind_it() {
    // The code after the loop comes first in the text; activemask there is that of all threads.
    let body = format!(
        "{OWN}
        mov.b32 %r5, %r4;
        bra.uni $TEST;
    $AFTER:
        activemask.b32 %r6;
        st.global.b32 [%rd3], %r6;
        ret;
    $TEST:
        setp.eq.u32 %p1, %r5, 0;
        @%p1 bra $AFTER;
        add.s32 %r5, %r5, -1;
        bra.uni $TEST;"
    );
    let left = launched(&body, ONE, [1, 32], &[&[0; 32]]).unwrap();
    assert_eq!(left[0], [u32::MAX; 32]);
}

#[test]
fn threads_that_skip_a_part_of_a_loop_wait_for_the_others() {
    // The end of the turn comes before the rest of the loop in the text.
    let body = format!(
        "{OWN}
        mov.b32 %r5, 0;
        mov.b32 %r6, 0;
        setp.ne.s32 %p1, %r4, 0;
        bra.uni $BODY;
    $END:
        add.s32 %r5, %r5, 1;
        setp.eq.s32 %p2, %r5, 3;
        @%p2 bra $AFTER;
    $BODY:
        activemask.b32 %r7;
        add.s32 %r6, %r6, %r7;
        @%p1 bra $END;
        add.s32 %r6, %r6, 1000;
        bra.uni $END;
    $AFTER:
        st.global.b32 [%rd3], %r6;
        ret;"
    );
    let left = launched(&body, ONE, [1, 32], &[&[0; 32]]).unwrap();
    let all = u32::MAX.wrapping_mul(3);
    assert_eq!(left[0][0], all.wrapping_add(3000));
    assert_eq!(left[0][1..], [all; 31]);
}
