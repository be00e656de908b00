namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::TransformInParts<Variant> {
  struct Arguments {
    flashinfer::Span<float> sharpness;
    float growth;
  };

  static constexpr bool kBends = true;

  static __device__ __forceinline__ float before(const flashinfer::LogitsContext& at, const Arguments& a) {
    const float scale = 1.f + a.growth * csharp::log(floorf(float(at.qo_position + 1) / 8192.f) + 1.f);
    return scale * a.sharpness[at.head];
  }
};
