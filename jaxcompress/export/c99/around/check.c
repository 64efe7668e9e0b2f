#include "@name@_check.h"

#include <stdint.h>

#include "@header@"

/* A number that looks random, of a place. */
static uint32_t noise(uint32_t place) {
  place ^= place >> 16;
  place *= 0x85ebca6bu;
  place ^= place >> 13;
  place *= 0xc2b2ae35u;
  return place ^ (place >> 16);
}

/* FNV-1a of integers, each from its lowest byte to its highest. */
static uint32_t hashed(uint32_t hash, int32_t value, int32_t bytes) {
  int32_t k;
  for (k = 0; k < bytes; k++) {
    hash ^= ((uint32_t)value >> (8 * k)) & 0xffu;
    hash *= 16777619u;
  }
  return hash;
}

int @name@_check(void) {
  static const uint32_t expected[@images@] = {@expected@};
  uint32_t image;
  int32_t i;
  for (image = 0; image < @images@u; image++) {
    @type@ *codes = @input@;
    uint32_t hash = 2166136261u;
    for (i = 0; i < @count@; i++)
      codes[i] = (@type@)((int32_t)(noise(image * @count@u + (uint32_t)i + 1u) >> @unused@) @low@);
    @run@;
@hashes@
    if (hash != expected[image]) return 0;
  }
  return 1;
}
