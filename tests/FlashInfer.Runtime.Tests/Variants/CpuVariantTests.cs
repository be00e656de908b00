namespace FlashInfer.Tests.Variants;

public class CpuVariantTests
{
    public static TheoryData<string> Names => [.. TestVariant.All.Select(variant => variant.ToString())];

    [Theory]
    [MemberData(nameof(Names))]
    public void Decode_agrees_with_the_oracle(string name)
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        for (int i = 0; i < 8; i++)
        {
            DecodeScenario.Check(device, DecodeCase.Draw(seed + i, tokens: 600).With(Variant(name)));
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Prefill_agrees_with_the_oracle(string name)
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        for (int i = 0; i < 3; i++)
        {
            DecodeCase drawn = PrefillScenario.Draw(seed + i, tokens: 400).With(Variant(name));
            PrefillScenario.CheckPaged(device, drawn);
            PrefillScenario.CheckRagged(device, drawn);
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Split_sequences_agree_with_the_oracle(string name)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 7 });
        int seed = Random.Shared.Next();
        DecodeCase one = new(4, 2, 64, 16, DType.BFloat16, KvLayout.Hnd, 1, [5000, 0, 40], null, 1, seed) { QueryTokens = [5, 1, 3] };
        foreach (Determinism determinism in (Determinism[])[Determinism.Reproducible, Determinism.BatchInvariant])
        {
            DecodeCase varied = (one with { Determinism = determinism }).With(Variant(name));
            DecodeScenario.Check(device, varied);
            PrefillScenario.CheckPaged(device, varied);
            PrefillScenario.CheckRagged(device, varied);
        }
    }

    public static TheoryData<string> Catalogue => [.. CatalogueCase.Names];

    [Theory]
    [MemberData(nameof(Catalogue))]
    public void The_catalogue_agrees_with_the_oracle(string name)
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        DecodeScenario.Check(device, CatalogueCase.Decode(name, seed));
        PrefillScenario.CheckPaged(device, CatalogueCase.Prefill(name, seed));
        PrefillScenario.CheckRagged(device, CatalogueCase.Prefill(name, seed));
    }

    /// <summary>Each option alone, all pairs that go together, and all at once.</summary>
    public static TheoryData<AttentionOptions> Options => [.. OptionCase.Sets];

    [Theory]
    [MemberData(nameof(Options))]
    public void Options_agree_with_the_oracle(AttentionOptions options)
    {
        using Device device = Device.OpenCpu();
        int seed = Random.Shared.Next();
        DecodeScenario.Check(device, DecodeCase.Draw(seed, tokens: 400).With(options));
        DecodeCase drawn = PrefillScenario.Draw(seed, tokens: 300).With(options);
        PrefillScenario.CheckPaged(device, drawn);
        PrefillScenario.CheckRagged(device, drawn);
    }

    [Theory]
    [InlineData(AttentionOptions.Rope, 64, 16)]
    [InlineData(AttentionOptions.RopeInterleaved, 64, 8)]
    [InlineData(AttentionOptions.RopeInterleaved, 128, 16)]
    public void Few_elements_turn(AttentionOptions rope, int headDim, int rotaryDim)
    {
        using Device device = Device.OpenCpu();
        DecodeCase one = PrefillScenario.FewElementsTurn(rope, headDim, rotaryDim, Random.Shared.Next());

        PrefillScenario.CheckPaged(device, one);
        PrefillScenario.CheckRagged(device, one);
    }

    private static TestVariant Variant(string name) => TestVariant.All.Single(variant => variant.ToString() == name);
}
