namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::TransformByScaledLine<Variant> {
  struct Arguments {
    flashinfer::Span<float> slopes;
    float temperature;
  };

  static constexpr bool kMasksLogits = true;

  static __device__ __forceinline__ flashinfer::Line line(const flashinfer::LogitsContext& at, const Arguments& a) {
    return {a.slopes[at.head], at.qo_position};
  }

  static __device__ __forceinline__ float after(const Arguments& a) {
    return csharp::divide(1.f, a.temperature);
  }

  static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments&) {
    return at.kv_position % 64 < 32 || at.qo_position - at.kv_position < 128;
  }
};
