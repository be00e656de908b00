namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments&) {
    const int distance = at.qo_position - at.kv_position;
    const int step = distance < 64 ? 1 : distance < 256 ? 4 : distance < 1024 ? 16 : 64;
    return distance % step == 0;
  }
};
