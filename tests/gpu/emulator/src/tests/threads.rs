//! Exchange between threads, spaces of memory, and faults that devices leave undefined.

use super::{ONE, OWN, launched};

/// Runs `body`, which leaves a value in `%r5`, on 32 threads; returns the value of each.
fn by_thread(body: &str) -> Result<Vec<u32>, String> {
    let body = format!("{OWN}\nmov.b32 %r5, 0;\n{body}\nst.global.b32 [%rd3], %r5;\nret;");
    launched(&body, ONE, [1, 32], &[&[0; 32]]).map(|mut left| left.remove(0))
}

#[test]
fn shuffles_stay_within_their_segments() {
    // 100 + the source, which is the thread itself where there is none.
    let shuffled = |mode: &str, offset: u32, clamp: u32| {
        by_thread(&format!(
            "add.u32 %r6, %r4, 100;
            shfl.sync.{mode}.b32 %r5|%p1, %r6, {offset}, {clamp}, -1;
            @%p1 add.u32 %r5, %r5, 1000;"
        ))
        .unwrap()
    };
    // Segments of eight threads.
    let mask = (32 - 8) << 8;
    let of = |f: &dyn Fn(u32) -> u32| (0..32).map(f).collect::<Vec<u32>>();
    assert_eq!(shuffled("up", 3, mask), of(&|n| if n % 8 >= 3 { 1097 + n } else { 100 + n }));
    assert_eq!(shuffled("down", 3, mask | 31), of(&|n| if n % 8 < 5 { 1103 + n } else { 100 + n }));
    assert_eq!(shuffled("bfly", 5, mask | 31), of(&|n| 1100 + (n ^ 5)));
    assert_eq!(shuffled("idx", 10, mask | 31), of(&|n| 1100 + n / 8 * 8 + 2));
    // Threads 6 and 7 of each segment are beyond the highest.
    assert_eq!(shuffled("idx", 6, mask | 5), of(&|n| 100 + n));
    assert_eq!(shuffled("up", 40, 0), of(&|n| if n >= 8 { 1092 + n } else { 100 + n }));
}

#[test]
fn votes_are_those_of_the_members() {
    let vote = |mode: &str| {
        by_thread(&format!(
            "mov.b32 %r5, 77;
            setp.lt.u32 %p1, %r4, 8;
            setp.lt.u32 %p2, %r4, 4;
            @!%p1 bra $END;
            vote.sync.{mode} %p3, %p2, 0xFF;
            selp.b32 %r5, 1, 0, %p3;
            vote.sync.ballot.b32 %r6, !%p2, 0xFF;
            mad.lo.u32 %r5, %r6, 2, %r5;
        $END:"
        ))
        .unwrap()
    };
    for (mode, expected) in [("any.pred", 1), ("all.pred", 0), ("uni.pred", 0)] {
        let left = vote(mode);
        assert_eq!(left[..8], [0xF0 * 2 + expected; 8], "{mode}");
        assert_eq!(left[8..], [77; 24], "{mode}");
    }
}

#[test]
fn one_member_is_elected() {
    let left = by_thread("elect.sync %r6|%p1, -1;\n@%p1 add.u32 %r5, %r6, 7;").unwrap();
    assert_eq!(left[0], 7);
    assert_eq!(left[1..], [0; 31]);
}

#[test]
fn members_that_ended_are_not_waited_for() {
    let left = by_thread(
        "setp.lt.u32 %p1, %r4, 16;
        @%p1 bra $HERE;
        ret;
    $HERE:
        vote.sync.ballot.b32 %r5, %p1, -1;",
    )
    .unwrap();
    assert_eq!(left[..16], [0xFFFF; 16]);
    // Threads that end after the others have begun to wait.
    let left = by_thread(
        "setp.ge.u32 %p1, %r4, 16;
        @%p1 bra $LATE;
        vote.sync.ballot.b32 %r5, !%p1, -1;
        bra.uni $STORE;
    $LATE:
        add.u32 %r6, %r4, 1;
        ret;
    $STORE:",
    )
    .unwrap();
    assert_eq!(left[..16], [0xFFFF; 16]);
}

#[test]
fn wrong_members_are_a_fault() {
    let reason = by_thread("shfl.sync.idx.b32 %r5, %r4, 0, 31, 0xFF;").unwrap_err();
    assert!(reason.contains("are not among the members 0xff"), "{reason}");
    let reason = by_thread("and.b32 %r6, %r4, 1;\nsub.u32 %r6, 0, %r6;\nbar.warp.sync %r6;").unwrap_err();
    assert!(reason.contains("with different members"), "{reason}");
}

#[test]
fn different_barriers_are_a_fault() {
    let reason = by_thread(
        "setp.lt.u32 %p1, %r4, 16;
        @%p1 bra $OTHER;
        bar.sync 0;
        bra.uni $END;
    $OTHER:
        bar.sync 0;
    $END:",
    )
    .unwrap_err();
    assert!(reason.contains("wait at different barriers"), "{reason}");
}

#[test]
fn barriers_do_not_wait_for_ended_threads() {
    let body = format!(
        "{OWN}
        setp.lt.u32 %p1, %r3, 32;
        @%p1 ret;
        bar.sync 0;
        st.global.b32 [%rd3], 5;
        ret;"
    );
    let left = launched(&body, ONE, [1, 64], &[&[0; 64]]).unwrap();
    assert_eq!((&left[0][..32], &left[0][32..]), (&[0; 32][..], &[5; 32][..]));
}

#[test]
fn values_of_fewer_bits_are_extended_and_cut() {
    let left = by_thread(
        "st.global.b32 [%rd3], 0x12FF80F0;
        ld.global.s8 %r5, [%rd3];
        ld.global.u8 %r6, [%rd3+1];
        ld.global.s16 %r7, [%rd3+2];
        ld.global.v2.b8 {%rs1, %rs2}, [%rd3];
        cvt.u32.u16 %r8, %rs2;
        st.global.b8 [%rd3], %r7;
        add.u32 %r5, %r5, %r6;
        add.u32 %r5, %r5, %r7;
        add.u32 %r5, %r5, %r8;
        ld.global.b32 %r9, [%rd3];
        xor.b32 %r5, %r5, %r9;",
    )
    .unwrap();
    let sum = (-16i32 + 0x80 + 0x12FF + 0x80) as u32;
    assert_eq!(left, [sum ^ 0x12FF_80FF; 32]);
}

#[test]
fn local_memory_is_each_threads_own() {
    let left = by_thread(
        ".local .align 4 .b8 own[12];
        mov.b64 %rd4, own;
        cvta.local.u64 %rd5, %rd4;
        st.local.b32 [%rd4+4], %r4;
        ld.b32 %r5, [%rd5+4];
        st.b32 [%rd5+8], %r5;
        ld.local.b32 %r5, [%rd4+8];",
    )
    .unwrap();
    assert_eq!(left, (0..32).collect::<Vec<u32>>());
    let reason = by_thread(".local .b8 own[12];\nmov.b64 %rd4, own;\nld.local.b32 %r5, [%rd4+12];").unwrap_err();
    assert!(reason.contains("outside of 12 bytes of Local memory"), "{reason}");
}

#[test]
fn shared_addresses_of_32_bits_and_generic_ones_are_the_same_memory() {
    let left = by_thread(
        ".shared .align 4 .b8 tile[128];
        mov.u32 %r6, tile;
        mad.lo.u32 %r6, %r4, 4, %r6;
        st.shared.b32 [%r6], %r4;
        mov.b64 %rd4, tile;
        cvta.shared.u64 %rd4, %rd4;
        add.u64 %rd4, %rd4, %rd2;
        isspacep.shared %p1, %rd4;
        @%p1 ld.b32 %r5, [%rd4];",
    )
    .unwrap();
    assert_eq!(left, (0..32).collect::<Vec<u32>>());
    let reason = by_thread(".shared .b8 tile[128];\nmov.b64 %rd4, tile;\nld.shared.b32 %r5, [%rd4+-4];").unwrap_err();
    assert!(reason.contains("of 0 bytes of Shared memory"), "{reason}");
}

#[test]
fn addresses_at_the_end_of_all_are_a_fault() {
    for space in [".global", ".shared", ".local", ""] {
        let reason = by_thread(&format!("mov.b64 %rd4, -1;\nld{space}.b8 %r5, [%rd4];")).unwrap_err();
        assert!(reason.contains("0xffffffffffffffff"), "{space}: {reason}");
    }
}

#[test]
fn atomics_of_two_cubes_are_all_counted() {
    let body = format!(
        "{OWN}
        atom.global.add.u32 %r5, [%rd1], 1;
        setp.eq.u32 %p1, %r5, 2047;
        @%p1 atom.global.exch.b32 _, [%rd1+4], %r5;
        ret;"
    );
    let left = launched(&body, ONE, [64, 32], &[&[0; 2]]).unwrap();
    assert_eq!(left[0], [2048, 2047]);
}

#[test]
fn parameters_have_the_alignment_of_their_types() {
    let params = format!("{ONE}, .param .b8 p1, .param .align 8 .b8 p2[12], .param .b16 p3");
    let module = crate::parse::module(&format!(".visible .entry k({params}) {{ ret; }}")).unwrap();
    assert_eq!(module.kernels["k"].params, [(0, 8), (8, 1), (16, 12), (28, 2)]);
}

#[test]
fn variables_of_a_module_are_memory() {
    let text = format!(
        "{}.global .align 16 .u16 table[5] = {{7, -1, 3}};
        .visible .entry k({ONE}) .maxntid 64, 2, 1 {{
            {}
            ld.param.b64 %rd1, [p0];
            mov.b64 %rd2, table;
            ld.global.u16 %r1, [%rd2+2];
            ld.global.u16 %r2, [%rd2+6];
            add.u32 %r1, %r1, %r2;
            st.global.b32 [%rd1], %r1;
        }}",
        super::HEAD,
        super::REGISTERS
    );
    let module = crate::parse::module(&text).unwrap();
    assert_eq!(module.kernels["k"].max_threads, 128);
    let left = super::launched_of(&module, [1, 1], &[&[0]]).unwrap();
    assert_eq!(left[0], [0xFFFF]);
    let reason = crate::parse::module(".global .u16 table[2] = {1, 2, 3};").map(|_| ()).unwrap_err();
    assert!(reason.contains("table"), "{reason}");
}

#[test]
fn forms_that_are_not_run_are_refused() {
    for text in [
        "add.u16x2 %r5, %r5, %r5;",
        "add.cc.u32 %r5, %r5, %r5;",
        "prmt.b32.f4e %r5, %r5, %r5, %r5;",
        "shfl.idx.b32 %r5, %r5, 0, 31;",
        "bar.sync 0, 64;",
        "max.f32 %f1, %f1, %f1, %f1;",
        "ld.global.v2.b32 %r5, [%rd3];",
        "mul.lo.u32 %r5, %r5, [%rd3];",
        "red.global.add.v2.f32 [%rd3], {%f1, %f2};",
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r1}, {%f1};",
        "set.lt.and.u32.f32 %r5, %f1, %f1, %p1;",
        "setp.lt.f16x2 %p1|%p2, %r5, %r5;",
        "mov.b128 %rd1, %rd2;",
    ] {
        let reason = by_thread(text).unwrap_err();
        assert!(reason.contains("support"), "{text}: {reason}");
    }
    assert!(by_thread("mov.b32 %r5, %undeclared;").unwrap_err().contains("an unknown register, %undeclared"));
    assert!(by_thread("mov.b32 %r5, %r20;").unwrap_err().contains("an unknown register, %r20"));
}
