namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kBoundsKeys = true;

  static __device__ __forceinline__ int first_key(const flashinfer::LogitsContext& at, const Arguments&) {
    return at.qo_position / 8192 * 8192;
  }
};
