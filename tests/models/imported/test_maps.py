"""Networks of others whose outputs are maps, and more than one."""

from tests.models.imported.checks import (  # noqa: F401
  test_integers_after_training_are_bit_equal_everywhere,
  test_it_has_fewer_channels,
  test_it_is_distilled_at_integers_and_goes_back_into_the_original,
  test_it_is_saved_and_loaded,
  test_it_trains_as_the_original_does,
  test_layers_have_the_names_of_the_originals,
  test_outputs_are_the_originals,
)

NETWORKS = (
  "linen UNet",
  "linen Detector",
  "linen DeepLab",
)
