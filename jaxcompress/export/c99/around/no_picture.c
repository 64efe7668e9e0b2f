
static int read_picture(const char *path) {
  return fail(path, "cannot be read as a picture, since the network does not say how; use --integers");
}
