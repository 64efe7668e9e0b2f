/* Channels of each cell. */
struct jaxcompress_channels_params {
  int32_t width, channels;
};
