"""What is read off the assembler's listing of a kernel: registers, instructions, and loops of products."""

import pytest

from benchmarks.codegen.sass import counted

pytestmark = pytest.mark.same_without_gpu

LISTING = """
 Function backward_kernel:
  REG:168 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:640 TEXTURE:0 SURFACE:0 SAMPLER:0
        /*0000*/                   MOV R1, c[0x0][0x28] ;            /* 0x00000a0000017a02 */
                                                                     /* 0x000fe40000000f00 */
        /*0010*/               @P0 LDGSTS.E.BYPASS.128 [R7], [R2.64] ;
        /*0020*/              @!P1 STL.64 [R1+0x8], R2 ;
        /*0030*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0040*/                   HMMA.1688.F32.TF32 R4, R8, R12, R4 ;
        /*0050*/              @UP2 LDL R3, [R1] ;
        /*10060*/                  LDSM.16.MT88.4 R8, [R3] ;
        /*10070*/                  NOP ;
"""


LOOPS = """
 Function backward_kernel:
  REG:168 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:640 TEXTURE:0 SURFACE:0 SAMPLER:0
        /*0000*/                   LDG.E.U16 R2, desc[UR4][R2.64] ;
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0020*/               @P0 LDGSTS.E.BYPASS.128 [R7], desc[UR4][R2.64] ;
        /*0030*/              @!P3 LDG.E.U16 R54, desc[UR26][R24.64] ;
        /*0040*/                   LDG.E.64 R54, desc[UR26][R24.64] ;
        /*0050*/                   LDG.E R54, desc[UR26][R24.64+0x80] ;
        /*0060*/                   HGMMA.64x64x16.F32 R24, R72, gdesc[UR28], R24, gsb0 ;
        /*0070*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0080*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0090*/               @P2 BRA 0x20 ;
        /*00a0*/                   HGMMA.64x64x16.F32 R24, R72, gdesc[UR28], R24, gsb0 ;
        /*00b0*/              @!P1 BRA 0xd0 ;
        /*00c0*/                   STS.128 [R7], R8 ;
        /*00d0*/                   LDL R8, [R1] ;
        /*00e0*/               @P2 BRA 0xa0 ;
        /*00f0*/                   STS.128 [R7], R8 ;
        /*0100*/               @P4 BRA 0x10 ;
        /*0110*/                   LDS R8, [R7] ;
        /*0120*/               @P4 BRA 0x110 ;
"""


def test_the_listing_of_the_assembler_is_read():
    figures = counted(LISTING)
    assert (figures.registers, figures.stack) == (168, 16)
    assert (figures.loads, figures.stores, figures.ldsm) == (1, 1, 1)
    assert figures.tensor_cores == {"HMMA": 2}
    assert figures.instructions == 7
    with pytest.raises(RuntimeError, match="no resource usage"):
        counted("cuobjdump: nothing to see here")


def test_innermost_loops_of_products_are_counted():
    """Neither the loop around both, nor one without products, nor what stands between."""
    assert counted(LOOPS).loops == (
        {"BAR": 1, "HGMMA": 1, "LDG.16": 1, "LDG.32": 1, "LDG.64": 1, "LDGSTS.128": 1, "wait": 1},
        {"HGMMA": 1, "LDL": 1, "STS": 1},
    )
    assert counted(LISTING).loops == ()


@pytest.mark.parametrize("name", ["HMMA", "HGMMA", "UTCHMMA", "UTCQMMA"])
def test_tensor_core_instructions_of_every_architecture_are_known(name):
    assert counted(LISTING.replace("HMMA", name)).tensor_cores == {name: 2}
