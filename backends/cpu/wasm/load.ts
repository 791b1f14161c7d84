export const STATIC_BYTES = 65536;
