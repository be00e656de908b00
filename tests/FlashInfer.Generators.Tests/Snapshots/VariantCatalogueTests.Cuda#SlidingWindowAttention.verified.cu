namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kBoundsKeys = true;

  static __device__ __forceinline__ int first_key(const flashinfer::LogitsContext& at, const Arguments&) {
    return csharp::max(0, at.qo_position - 1024 + 1);
  }
};
