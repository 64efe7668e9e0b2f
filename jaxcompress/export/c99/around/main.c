/* Classifies pictures on a computer: @name@ PICTURE..., or @name@ --integers FILE..., or @name@ --check. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "@header@"
#include "@name@_check.h"
#include "@name@_picture.h"

#define INPUT_BYTES @input_bytes@u

static int fail(const char *file, const char *why) {
  fprintf(stderr, "%s %s\n", file, why);
  return 1;
}

/* Reads a file that has just so many bytes from where it stands. */
static int read_rest(FILE *file, void *to, size_t bytes) {
  return fread(to, 1, bytes, file) == bytes && fgetc(file) == EOF;
}

/* The integers as the network reads them, in the byte order of this computer. */
static int read_integers(const char *path) {
  FILE *file = fopen(path, "rb");
  int whole;
  if (file == NULL) return fail(path, "cannot be opened");
  whole = read_rest(file, @input@, INPUT_BYTES);
  fclose(file);
  return whole ? 0 : fail(path, "must have @input_bytes@ bytes");
}
@read_picture@
static void print_outputs(void) {
@print@
}

int main(int argc, char **argv) {
  int i = 1, integers = 0;
  if (argc == 2 && strcmp(argv[1], "--check") == 0) {
    const int equal = @name@_check();
    puts(equal ? "equal: this program computes the integers of exact evaluation"
               : "different: this program does not compute the integers of exact evaluation");
    return !equal;
  }
  if (argc > 1 && strcmp(argv[1], "--integers") == 0) integers = i++;
  if (i >= argc) return fail(argv[0], "[--integers] FILE..., or --check");
  for (; i < argc; i++) {
    if (integers ? read_integers(argv[i]) : read_picture(argv[i])) return 1;
    @run@;
    printf("%s\n", argv[i]);
    print_outputs();
  }
  return 0;
}
