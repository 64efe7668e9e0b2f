/* Runs the network on images one after another: PROGRAM INPUT OUTPUT REPEATS.
 *
 * INPUT holds the integers of all images. OUTPUT gets those of all outputs, image by image. Every image
 * is computed REPEATS times, which leaves time or instructions to be measured. */
#include "@header@"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INPUT_BYTES @input_bytes@u

static uint8_t image[INPUT_BYTES];

static int write_outputs(FILE *out) {
  return @writes@;
}

int main(int argc, char **argv) {
  FILE *in, *out;
  long repeats, i;
  size_t got;
  if (argc != 4) return 1;
  repeats = strtol(argv[3], NULL, 10);
  in = fopen(argv[1], "rb");
  out = fopen(argv[2], "wb");
  if (in == NULL || out == NULL || repeats < 1) return 1;
  while ((got = fread(image, 1, INPUT_BYTES, in)) == INPUT_BYTES) {
    for (i = 0; i < repeats; i++) {
      memcpy(@input@, image, INPUT_BYTES);
      @run@;
    }
    if (!write_outputs(out)) return 1;
  }
  return fclose(out) != 0 || got != 0 || ferror(in);
}
