# The numbers of others: see tests/reference.sh.
TEST_TOOLS               += reference_logits
reference_logits_NOCHECK := 1
reference_logits_USES    := worker offload comm nvme kernels common
TEST_SCRIPTS             += tests/reference.sh
