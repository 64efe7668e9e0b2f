
static uint8_t pixels[@NAME@_ROWS * @NAME@_COLUMNS * @NAME@_CHANNELS];

/* A number of the head of a PPM or PGM file, which comments may precede. */
static long read_number(FILE *file) {
  long number = 0;
  int c = fgetc(file);
  while (c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '#') {
    if (c == '#')
      while (c != '\n' && c != EOF) c = fgetc(file);
    c = fgetc(file);
  }
  if (c < '0' || c > '9') return -1;
  for (; c >= '0' && c <= '9' && number < 100000; c = fgetc(file)) number = 10 * number + (c - '0');
  return number;
}

/* A binary @kind@ of just the network's size, with 8 bits a pixel. */
static int read_picture(const char *path) {
  FILE *file = fopen(path, "rb");
  int fits;
  if (file == NULL) return fail(path, "cannot be opened");
  fits = fgetc(file) == 'P' && fgetc(file) == '@digit@' && read_number(file) == @NAME@_COLUMNS &&
         read_number(file) == @NAME@_ROWS && read_number(file) == 255 && read_rest(file, pixels, sizeof pixels);
  fclose(file);
  if (!fits) return fail(path, "must be a binary @kind@ (P@digit@) of @columns@ x @rows@ pixels with 8 bits");
  @name@_read_pixels(pixels);
  return 0;
}
